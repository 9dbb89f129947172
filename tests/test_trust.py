"""Secrets, paths and strangers' words: what an address or a file says of itself goes nowhere it should not."""

import hashlib
import json
import stat

import netCDF4
import numpy as np
import pytest

import xarray as xr

import microclimate as mc
from microclimate.errors import WeatherError
from microclimate.files import write_json
from microclimate.provenance import provenance, save_dataset, verify
from microclimate.weather.store import Store

from test_era5_http import make_store, serve

SECRETS = ("someone", "pa55word")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    store = serve(tmp_path_factory.mktemp("served"), make_store(), 2)
    yield store
    store.server.shutdown()


@pytest.fixture
def address(served):
    "The store's address with a user and a password, which the server does not ask for."
    return served.source.removeprefix("era5:").replace("://", "://someone:pa55word@")


def holds_secret(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files for word in SECRETS if word.encode() in path.read_bytes()]


def test_a_password_is_written_nowhere(address, tmp_path):
    day = ("2024-06-01T00", "2024-06-01T05")
    for source in (address, f"era5:{address}"):
        ds = mc.open_weather(source, ["2t"], region=(66, 58, 4, 12), time=day, cache=tmp_path / "cache")
        assert not any(word in str(ds.attrs) for word in SECRETS) and "127.0.0.1" in ds.attrs["source"]
        save_dataset(ds, tmp_path / "out.nc", provenance(source=source, config=dict(source=[source])))
        write_json(dict(source=source), tmp_path / "manifest.json")
        assert not holds_secret(tmp_path)
    assert not any(word in json.dumps(verify(tmp_path / "out.nc")) for word in SECRETS)


def test_a_password_is_in_no_sentence(address, tmp_path):
    for source in (address + "/nothing", f"era5:{address}/nothing", address.replace("127.0.0.1", "127.0.0.1:1/")):
        with pytest.raises(WeatherError) as caught:
            mc.open_weather(source, ["2t"], time=("2024-06-01", "2024-06-01"), cache=tmp_path / "cache")
        assert not any(word in str(caught.value) for word in SECRETS)
        assert caught.value.__cause__ is None


def test_an_address_from_the_environment(address, monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_STORE", address)
    day = ("2024-06-01T00", "2024-06-01T01")
    for source in ("$SOME_STORE", "era5:$SOME_STORE"):
        ds = mc.open_weather(source, ["2t"], region=(66, 58, 4, 12), time=day, cache=tmp_path)
        assert "store.zarr" in ds.attrs["source"] and "pa55word" not in str(ds.attrs)


def test_the_cache_is_its_owners_alone(tmp_path, monkeypatch):
    Store("https://host/x.zarr", tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    monkeypatch.delenv("MICROCLIMATE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "microclimate").mkdir(mode=0o755)
    Store("https://host/x.zarr")
    assert stat.S_IMODE((tmp_path / "microclimate").stat().st_mode) == 0o700
    (tmp_path / "team").mkdir(mode=0o750)
    Store("https://host/x.zarr", tmp_path / "team")
    assert stat.S_IMODE((tmp_path / "team").stat().st_mode) == 0o750


@pytest.fixture
def saved(tmp_path):
    ds = mc.open_weather("nature", ["2t", "tp"], region=(61, 60, 8, 10), time=("2024-06-01", "2024-06-01T03"))
    ds = ds.assign_attrs(model="mine")
    return save_dataset(ds, tmp_path / "saved.nc", provenance(source="nature", seed=0))


CHANGES = {
    "units": lambda file: file["2t"].setncattr("units", "degC") if "2t" in file.variables else file["t2m"].setncattr("units", "degC"),
    "model": lambda file: file.setncattr("model", "another"),
    "synthetic": lambda file: file.setncattr("synthetic", 0),
    "no synthetic": lambda file: file.delncattr("synthetic"),
    "provenance": lambda file: file.setncattr("provenance", file.provenance.replace('"seed": 0', '"seed": 1')),
    "no JSON": lambda file: file.setncattr("provenance", file.provenance[:-3]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_verify_covers_what_a_file_says(change, saved):
    assert verify(saved)["source"] == "nature"
    with netCDF4.Dataset(saved, "a") as file: CHANGES[change](file)
    with pytest.raises(WeatherError, match="changed after it was written"): verify(saved)


def test_files_of_earlier_versions_verify_what_they_can(saved):
    "Version 0.2 had a checksum of the numbers alone, and counted a single number as a list of one."
    with xr.load_dataset(saved, decode_timedelta=True) as ds:
        digest = hashlib.sha256()
        for name in sorted(map(str, ds.variables)):
            values = np.ascontiguousarray(ds[name].values)
            if values.dtype.kind in "mM": values = values.astype(f"{values.dtype.kind}8[ns]").view("int64")
            digest.update(f"{name}{ds[name].dims}{values.shape}".encode())
            digest.update(values.tobytes())
        assert digest.hexdigest() == ds.attrs["content_sha256"]
    with netCDF4.Dataset(saved, "a") as file: file.delncattr("header_sha256")
    with pytest.warns(UserWarning, match="no checksum"): assert verify(saved)["source"] == "nature"
