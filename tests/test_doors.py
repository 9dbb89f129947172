"""What comes in by other doors than open_weather's: archives, forecasts, climatologies, stations, splits, runs."""

import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.grid import spells
from microclimate.models.registry import model_folder, read_config
from microclimate.runs.training import trained_on
from microclimate.training.loader import split_times
from microclimate.weather.open import open_weather

AXES = dict(latitude=[61.0, 60.5, 60.0], longitude=[9.0, 9.5, 10.0, 10.5])


def hours(n, start="2024-06-01"): return pd.date_range(start, periods=n, freq="h")


def field(values, **attrs):
    "`(n, 3, 4)` from one number for each time."
    values = np.reshape(values, (-1, 1, 1))
    whole = np.broadcast_to(values, (len(values), 3, 4)).astype("f4")
    return ("time", "latitude", "longitude"), whole, attrs


def write(path, ds):
    ds.to_netcdf(path, engine="netcdf4")
    return path


def zip_files(path, *files):
    with zipfile.ZipFile(path, "w") as archive:
        for file in files: archive.write(file, file.name)
    return path


# --- archives -----------------------------------------------------------------------------------

def test_an_archive_of_copernicus_is_its_files_together(tmp_path):
    "States and sums in two files, as the Climate Data Store packs them under the name .nc."
    axes = AXES | dict(time=hours(3), number=0, expver=("time", ["0001"] * 3))
    about = dict(institution="European Centre for Medium-Range Weather Forecasts")
    states = xr.Dataset({"t2m": field([280, 281, 282], units="K")}, axes, about)
    sums = xr.Dataset({"tp": field([1e-3, 0, 2e-3], units="m")}, axes, about)
    parts = [write(tmp_path / f"data_stream-oper_stepType-{kind}.nc", ds.rename(time="valid_time"))
             for kind, ds in (("instant", states), ("accum", sums))]
    archive = zip_files(tmp_path / "era5.nc", *parts)
    with open_weather(archive) as packed, open_weather(parts) as plain:
        for name in ("2t", "tp"): np.testing.assert_array_equal(packed[name], plain[name])
    np.testing.assert_allclose(packed["tp"][:, 0, 0], [1, 0, 2], rtol=1e-6)
    lazy = open_weather(archive, ["2t"], lazy=True)
    np.testing.assert_array_equal(lazy["2t"], packed["2t"])


def test_a_damaged_file_in_an_archive_is_named(tmp_path):
    whole = write(tmp_path / "june.nc", xr.Dataset({"t2m": field([280], units="K")}, AXES | dict(time=hours(1))))
    short = tmp_path / "july.nc"
    short.write_bytes(whole.read_bytes()[:-40])
    archive = zip_files(tmp_path / "both.zip", whole, short)
    with pytest.raises(WeatherError, match="^july.nc in .*both.zip was cut short"): open_weather(archive)


def test_a_name_with_brackets_is_a_name_where_it_exists(tmp_path):
    ds = xr.Dataset({"t2m": field([280, 281], units="K")}, AXES | dict(time=hours(2)))
    write(tmp_path / "era5 [1].nc", ds)
    assert open_weather(tmp_path / "era5 [1].nc").sizes["time"] == 2
    assert open_weather(str(tmp_path / "era5 [[]1].nc")).sizes["time"] == 2


# --- what is held out ---------------------------------------------------------------------------

def test_held_out_weeks_stay_where_they_are_when_data_grow():
    time = np.arange("2018-10-01", "2019-01-01", dtype="M8[h]").astype("M8[ns]")
    whole = split_times(time, 4, 5)
    for part in (time >= np.datetime64("2018-10-08"), time < np.datetime64("2018-12-03"), time.astype(int) % 7 == 0):
        split = split_times(time[part], 4, 5)
        for name, mask in whole.items(): np.testing.assert_array_equal(split[name], mask[part])


def test_the_shipped_model_is_split_as_it_was_trained():
    "It was trained when weeks were counted from the first time of the data, and says which starts were held out."
    known = trained_on("sfno-tiny")
    starts = read_config(model_folder("sfno-tiny"))["provenance"]["config"]["test_starts"]
    times = spells(known["start"], known["end"], known["spell_hours"], known["spell_every"])
    test = split_times(times, known["holdout"], known["validate"])["test"]
    assert known["holdout"] == "4 from first" and len(starts) == 24
    assert np.isin(np.array(starts, "M8[ns]"), times[test]).all()
    assert not np.isin(np.array(starts, "M8[ns]"), times[split_times(times, 4, 5)["test"]]).all()
