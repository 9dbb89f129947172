"""Secrets, paths and strangers' words: what an address or a file says of itself goes nowhere it should not."""

import hashlib
import json
import stat
import threading
import time
import warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import matplotlib.pyplot as plt
import netCDF4
import numpy as np
import pandas as pd
import pytest

import xarray as xr

import microclimate as mc
import microclimate.compute  # noqa: F401 -- before aurora: it mends a torchvision that was made for another torch
from microclimate.delivery import foundry
from microclimate.errors import WeatherError
from microclimate.files import write_json
from microclimate.provenance import provenance, save_dataset, verify
from microclimate.models.baseline import Persistence
from microclimate.models.rollout import forecast_archive
from microclimate.runs.session import Run
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


class Echo(BaseHTTPRequestHandler):
    "A service that quotes what it was sent, or answers what it was told to."
    def do_POST(self):
        said = f"you sent {self.headers['Authorization']} and {self.rfile.read(int(self.headers['Content-Length'])).decode()}"
        text = said if self.server.answer is None else json.dumps(self.server.answer)
        self.send_response(500 if self.server.answer is None else 200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args): pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def access_to_service(server):
    where = f"http://127.0.0.1:{server.server_address[1]}"
    return foundry.Access(f"{where}/score", "a+secret/token", f"{where}/box?sp=rw&sig=c2VjcmV0%2Bsig")


def test_a_service_that_quotes_the_token(service, monkeypatch):
    pytest.importorskip("aurora", reason="an extra is not installed: aurora")
    monkeypatch.setitem(foundry.RETRIES, "total", 0)
    service.answer, access = None, access_to_service(service)
    with pytest.raises(WeatherError, match="HTTP 500") as caught:
        foundry.client_for(access).submit_task(dict(data_folder_uri=access.container, token=access.token))
    for secret in ("a+secret/token", "a%2Bsecret", "c2VjcmV0"): assert secret not in str(caught.value)


TASK = dict(completed=False, status="running", progress_percentage=3, success=None)
ODD = [dict(completed="false"), dict(completed=None), dict(status=None), dict(progress_percentage="3"),
       dict(completed=True, success="yes"), dict(completed=True), dict(status=["a+secret/token"])]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_answers_of_another_kind(odd, service, monkeypatch, tmp_path):
    pytest.importorskip("aurora", reason="an extra is not installed: aurora")
    service.answer, access = TASK | odd, access_to_service(service)
    order = foundry.Order(tmp_path, "aurora-0.25-small-pretrained", 12, "0" * 64)
    with pytest.raises(WeatherError, match="does not say how far") as caught:
        foundry.wait_for(order, "a-task", access, foundry.client_for(access), foundry.Pace(1, 0.01))
    assert "a+secret/token" not in str(caught.value)


@pytest.mark.parametrize("task", [7, "", None, "../../x", "a/b", "a b", ["a"], "x" * 999, "é"], ids=str)
def test_names_of_tasks(task, service, tmp_path):
    pytest.importorskip("aurora", reason="an extra is not installed: aurora")
    service.answer, access = dict(task_id=task), access_to_service(service)
    order = foundry.Order(tmp_path, "aurora-0.25-small-pretrained", 12, "0" * 64)
    with pytest.raises(WeatherError, match="no name of a task"): foundry.new_task(order, access, foundry.client_for(access))
    write_json(order.asked | dict(task_id=task), tmp_path / "task.json")
    assert foundry.remembered(order) is None


@pytest.mark.parametrize("address", ["http://score.example/score", "ftp://127.0.0.1/score", "score", "http://127.0.0.1.example/score"])
def test_secrets_travel_in_no_clear(address):
    with pytest.raises(WeatherError, match="would travel in clear"): foundry.Access(address, "t", "https://box.example/b?sp=rw&sig=x")
    with pytest.raises(WeatherError, match="would travel in clear"): foundry.Access("https://score.example/score", "t", address + "?sig=x")


class Odd(SimpleHTTPRequestHandler):
    "Serves files, but chunks of data a byte at a time, or without end."
    def do_GET(self):
        if "2m_temperature/" not in self.path or self.path.endswith((".zarray", ".zattrs")): return super().do_GET()
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.over.is_set():
                self.wfile.write(bytes(2**20 if self.server.endless else 1))
                self.server.over.wait(0 if self.server.endless else 0.05)
        except OSError: pass

    def log_message(self, *args): pass


@pytest.mark.parametrize("endless", [False, True], ids=["dripping", "endless"])
def test_a_server_that_never_ends(endless, served, monkeypatch, tmp_path):
    folder = served.server.RequestHandlerClass.keywords["directory"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Odd, directory=folder))
    server.endless, server.over = endless, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MICROCLIMATE_REMOTE_SECONDS", "60" if endless else "1")
    monkeypatch.setenv("MICROCLIMATE_REMOTE_BYTES", "8e6")
    address, began = f"http://127.0.0.1:{server.server_address[1]}/store.zarr", time.monotonic()
    try:
        with pytest.raises(WeatherError, match="more than 8e.06 bytes" if endless else "TimeoutError"):
            mc.open_weather(f"era5:{address}", ["2t"], region=(66, 58, 4, 12), time=("2024-06-01T00", "2024-06-01T02"), cache=tmp_path)
    finally:
        server.over.set()
        server.shutdown()
    assert time.monotonic() - began < 30


def test_a_dollar_in_a_title_is_a_dollar(tmp_path):
    from microclimate.figures.maps import draw_title, figure_style
    with figure_style():
        figure = plt.figure(figsize=(4, 3))
        draw_title(figure, "cost $x_ of $\\frac", "a $ credit $^ of <b>somebody</b>")
        figure.savefig(tmp_path / "title.png")
    plt.close(figure)


NAMES = ["../../outside", "/outside", "a/b", "..", "", "x" * 400, "<b>$x$</b>"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_path(name, tmp_path):
    "A model's name, as a strange config.json has it, leads to no other folder."
    weather = mc.open_weather("nature", ["2t", "msl"], region=(61, 60, 8, 10), time=("2024-06-01", "2024-06-01T05"))
    still = Persistence(1, name=name)
    folder = tmp_path / "a" / "b" / "forecasts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = forecast_archive(still, weather, weather.time.values[:1], 2, folder)
    run = Run({}, folder, "cpu")
    run.show(name, plt.figure())
    run.save_table(name, pd.DataFrame(dict(a=[1])))
    run.finish()
    assert made[0].parent == folder and len(list(folder.glob("*.png"))) == len(list(folder.glob("*.csv"))) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder] == []
    plt.close("all")
