"""MET Norway's `verif` opens what we write and finds our scores; we open what others write for it."""

import os
import subprocess
import sys

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.scores.stations import (
    open_observations,
    read_stations,
    read_verif,
    score_stations,
    write_verif,
)

pytest.importorskip("verif", reason="the dev extra is not installed")

HOUR = np.timedelta64(1, "h")
NAMES = {"rmse": "Rmse", "mae": "Mae", "bias": "Bias"}
UNITS = {"2t": "K", "wind": "m s-1", "tp": "kg m-2 h-1", "msl": "Pa"}


def pair(name, members=0, seed=0):
    "A forecast of 9 starts, 5 leads and 7 stations, and observations of which a fifth are missing, one station and one hour entirely."
    rng = np.random.default_rng(seed)
    lat, lon, altitude = (rng.uniform(*span, 7).round(2) for span in ((57, 72), (4, 31), (0, 1500)))
    table = dict(id=rng.permutation(90000)[:7], name=[f"station {k}" for k in range(7)], lat=lat, lon=lon, altitude=altitude)
    places = read_stations(pd.DataFrame(table))
    starts, leads = np.datetime64("2024-01-01", "ns") + 12 * HOUR * np.arange(9), np.array([0, 3, 6, 12, 36]) * HOUR
    times = np.datetime64("2024-01-01", "ns") + 3 * HOUR * np.arange(60)
    low, spread = dict(zip(UNITS, ((270, 8), (0, 6), (0, 1), (1e5, 900))))[name]
    make = lambda *shape: (low + spread * rng.gamma(2.0, 0.5, shape)).astype("f4")
    seen = make(60, 7)
    seen[rng.random(seen.shape) < 0.2] = np.nan
    seen[:, 3], seen[4] = np.nan, np.nan
    number = ("number",) * (members > 0)
    facts = dict(units=UNITS[name])
    ahead = make(*(members,) * (members > 0), 9, 5, 7)
    ahead[..., 2, 1, 5] = np.nan  # a forecast may be missing as well
    forecast = xr.Dataset({name: ((*number, "init_time", "lead_time", "location"), ahead, facts)},
                          coords=dict(init_time=starts, lead_time=leads.astype("m8[ns]"), **places.coords), attrs=dict(model="made up"))
    return forecast, xr.Dataset({name: (("time", "location"), seen, facts)}, coords=dict(time=times, **places.coords))


def verif_scores(path, metric):
    "By lead time, as verif's own classes compute it."
    import verif.axis
    import verif.data
    import verif.input
    import verif.metric

    data = verif.data.Data([verif.input.get_input(str(path))])
    return data.leadtimes, getattr(verif.metric, metric)().compute(data, 0, verif.axis.Leadtime(), None)


@pytest.mark.parametrize("name", ["2t", "wind", "tp"])
@pytest.mark.parametrize("members", [0, 4])
def test_verif_finds_our_scores(tmp_path, name, members):
    forecast, seen = pair(name, members)
    path = write_verif(forecast, seen, name, tmp_path / "scores.nc")
    table = score_stations(forecast, seen)
    assert table.cells.between(1, 9 * 7 - 1).all(), "the observations have gaps at every lead"
    for metric, theirs in NAMES.items():
        ours = table[table.metric == metric].set_index("lead_hours").value
        leads, values = verif_scores(path, theirs)
        assert leads.tolist() == [0, *ours.index]
        size = table[table.metric == "rmse"].value.max()  # verif sums in single precision, so small biases of large errors are rounded
        np.testing.assert_allclose(values[1:], ours, rtol=1e-6, atol=1e-6 * size)


def test_scores_of_grids_are_the_same_scores():
    "Stations as the cells of one row, each of the same weight: the engine for grids gives the same numbers and counts."
    from microclimate.scores.evaluate import score

    forecast, seen = pair("2t")
    row = lambda ds: ds.drop_vars(["location", "name", "altitude"]).rename(location="x").expand_dims("y").assign_coords(
        y=[0.0], x=np.arange(7.0), **{c: (("y", "x"), ds[c].values[None]) for c in ("latitude", "longitude")})
    engine = score(row(forecast), row(seen), list(NAMES), weights=None, missing=["2t"])
    table = score_stations(forecast, seen, metrics=list(NAMES))
    for metric in NAMES:
        np.testing.assert_allclose(engine["2t"].sel(metric=metric), table[table.metric == metric].value, rtol=1e-12)
    for count in ("pairs", "cells"): assert engine[count].sel(variable="2t").values.tolist() == table[count][:4].tolist()


def test_the_command_line_of_verif(tmp_path):
    forecast, seen = pair("2t")
    path = write_verif(forecast, seen, "2t", tmp_path / "model.nc")
    table = score_stations(forecast, seen)
    for metric in NAMES:
        command = [sys.executable, "-m", "verif", path, "-m", metric, "-x", "leadtime", "-type", "csv", "-f", tmp_path / f"{metric}.csv"]
        run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
        assert run.returncode == 0, run.stderr
        said = pd.read_csv(tmp_path / f"{metric}.csv").iloc[:, -1]  # six digits
        np.testing.assert_allclose(said[1:], table[table.metric == metric].value, rtol=6e-6)


def test_verif_draws_our_file(tmp_path):
    "A figure with units in LaTeX, by station and by altitude: nothing in the file stops verif."
    path = write_verif(*pair("wind"), "wind", tmp_path / "wind.nc")
    for options in (["-m", "obsfcst"], ["-m", "mae", "-x", "location"], ["-m", "rmse", "-x", "elev"]):
        command = [sys.executable, "-m", "verif", str(path), *options, "-f", str(tmp_path / "figure.png")]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
        assert run.returncode == 0 and (tmp_path / "figure.png").stat().st_size > 5000, run.stdout + run.stderr
        (tmp_path / "figure.png").unlink()


@pytest.mark.parametrize("name, members", [("2t", 0), ("tp", 3), ("msl", 0), ("wind", 2)])
def test_there_and_back(tmp_path, name, members):
    forecast, seen = pair(name, members)
    again, observed = read_verif(write_verif(forecast, seen, name, tmp_path / "file.nc"))
    dims = ("init_time", "lead_time", "location", "number")[: 3 + (members > 0)]
    assert again[name].dims == dims and again[name].attrs["units"] == UNITS[name]
    np.testing.assert_array_equal(again[name], forecast[name].transpose(*dims))
    for c in ("location", "name", "latitude", "longitude", "altitude", "init_time", "lead_time"):
        np.testing.assert_array_equal(again[c], forecast[c])
    np.testing.assert_array_equal(observed[name], seen[name].sel(time=observed.time))
    assert again.attrs["model"] == "made up"
    second = write_verif(again, observed, name, tmp_path / "second.nc")
    first, second = (xr.load_dataset(path, decode_times=False, engine="netcdf4") for path in (tmp_path / "file.nc", second))
    assert first.equals(second)


def foreign(path, dims=("time", "leadtime", "location"), **attrs):
    "A file as the documentation of verif shows one: times without units, integers, -999 for missing."
    rng = np.random.default_rng(1)
    with netCDF4.Dataset(path, "w") as file:
        for dim in dims:
            file.createDimension(dim, dict(time=3, leadtime=4, location=2)[dim])
        values = dict(time=1704067200 + 86400 * np.arange(3), leadtime=[0, 24, 48, 72], location=[18700, 50540])
        values |= dict(lat=[59.94, 60.38], lon=[10.72, 5.33])
        for name, numbers in values.items():
            dim = name if name in ("time", "leadtime") else "location"
            if dim in dims:
                file.createVariable(name, "i4" if name in ("time", "location") else "f4", (dim,))[:] = numbers
        if len(dims) == 3:
            truth = rng.normal(5, 3, (6, 2)).astype("f4")
            truth[3, 1] = -999
            file.createVariable("obs", "f4", dims)[:] = truth[np.add.outer(np.arange(3), np.arange(4))]
            file.createVariable("fcst", "f4", dims)[:] = rng.normal(5, 3, (3, 4, 2))
        file.setncatts(attrs)
    return path


def test_a_file_from_elsewhere(tmp_path):
    path = foreign(tmp_path / "t2m.nc", long_name="Temperature", standard_name="air_temperature", units="^oC", verif_version="1.0.0")
    forecast, seen = read_verif(path)
    assert seen["2t"].sizes == {"time": 6, "location": 2} and 260 < seen["2t"].mean() < 290 and seen["2t"].isnull().sum() == 1
    assert seen.time.values[0] == np.datetime64("2024-01-01") and forecast.attrs["model"] == "t2m" and forecast.altitude.isnull().all()
    table = score_stations(forecast, seen, metrics=["mae"])
    assert table.cells.tolist() == [5, 5, 5]
    np.testing.assert_allclose(verif_scores(path, "Mae")[1][1:], table.value, rtol=1e-6)


@pytest.mark.parametrize("attrs, expected", [
    (dict(), "does not say which variable it holds"),
    (dict(standard_name="air_temperature"), "has no units"),
    (dict(standard_name="air_temperature", units="furlongs"), "'furlongs'"),
    (dict(standard_name="precipitation_amount", units="mm"), "over an unknown time"),
    (dict(standard_name="sea_water_salinity", units="1"), "sea_water_salinity"),
])  # fmt: skip
def test_contents_that_are_not_told(tmp_path, attrs, expected):
    with pytest.raises(WeatherError, match=expected):
        read_verif(foreign(tmp_path / "file.nc", **attrs))


def test_the_reader_may_tell(tmp_path):
    forecast, _ = read_verif(foreign(tmp_path / "file.nc", standard_name="precipitation_amount", units="mm"), units="mm/h")
    assert "tp" in forecast and forecast["tp"].attrs["units"] == "kg m-2 h-1"
    forecast, _ = read_verif(foreign(tmp_path / "bare.nc"), name="2d", units="celsius")
    assert 250 < forecast["2d"].mean() < 300


def test_no_file_of_verif(tmp_path):
    with pytest.raises(WeatherError, match="no dimension leadtime"):
        read_verif(foreign(tmp_path / "file.nc", dims=("time", "location")))
    with pytest.raises(WeatherError, match="There is no file"):
        read_verif(tmp_path / "absent.nc")
    whole = write_verif(*pair("2t"), "2t", tmp_path / "whole.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeatherError, match="cut.nc"):
        read_verif(tmp_path / "cut.nc")


def test_observations_that_contradict_each_other(tmp_path):
    path = foreign(tmp_path / "file.nc", standard_name="air_temperature", units="celsius")
    with netCDF4.Dataset(path, "a") as file:
        file["obs"][1, 0, 0] += 1
    with pytest.raises(WeatherError, match="two observations of station 18700 at 2024-01-02"):
        read_verif(path)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    forecast, seen = pair("2t")
    with pytest.raises(WeatherError, match="lacks 'msl'"):
        write_verif(forecast, seen, "msl", tmp_path / "msl.nc")
    with pytest.raises(WeatherError, match="no units of 2 m temperature"):
        write_verif(forecast, seen, "2t", tmp_path / "2t.nc", units="hPa")
    assert not list(tmp_path.iterdir())


def as_table(seen, name):
    "Observations as rows, those that are missing left out, shuffled."
    rows = seen[name].rename("value").to_dataframe().reset_index().dropna(subset=["value"])
    rows = rows.rename(columns={"name": "station"}).assign(units=UNITS[name], variable=name)
    columns = ["time", "station", "variable", "units", "value"]
    return rows[columns].sample(frac=1, random_state=1)


@pytest.mark.parametrize("name", ["2t", "wind", "tp", "msl"])
def test_a_table_has_the_scores_of_the_dataset(tmp_path, name):
    "Rows in a CSV file, in any order and with gaps, with a list of stations beside them."
    forecast, seen = pair(name)
    as_table(seen, name).to_csv(tmp_path / "observations.csv", index=False)
    listed = forecast[["location", "name", "latitude", "longitude", "altitude"]].to_dataframe()
    listed.reset_index().to_csv(tmp_path / "stations.csv", index=False)
    observed = open_observations(tmp_path / "observations.csv", places=tmp_path / "stations.csv")
    assert observed[name].attrs["units"] == UNITS[name]
    from_table = forecast.sel(location=observed.location)  # a station never observed has no rows
    table = score_stations(from_table, observed)
    expected = score_stations(from_table, seen)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-5, atol=1e-6)
    written = write_verif(from_table, observed, name, tmp_path / "verif.nc")
    again = open_observations(written)
    np.testing.assert_allclose(again[name], observed[name].reindex(time=again.time), rtol=1e-6)


@pytest.mark.parametrize("separator, decimal", [(",", "."), (";", ",")])
def test_time_zones_units_and_commas(tmp_path, separator, decimal):
    "Local time and degrees Celsius as a weather service's download has them."
    rows = pd.DataFrame(dict(
        Time=["2024-07-01T02:00+02:00", "2024-07-01T01:00Z", "2024-07-01T02:00:00"],
        Station=["SN18700"] * 3, Lat=59.94, Lon=10.72, Altitude=94.0, Value=[10.5, None, 12.25],
    ))  # fmt: skip
    path = tmp_path / "oslo.csv"
    rows.to_csv(path, index=False, sep=separator, decimal=decimal)
    observed = open_observations(path, "2t", units="celsius")
    assert observed.location.values.tolist() == [18700] and observed["name"].values[0] == "SN18700"
    hours = pd.DatetimeIndex(observed.time.values).hour.tolist()
    values = observed["2t"].values[:, 0].tolist()
    known = [(h, v) for h, v in zip(hours, values) if np.isfinite(v)]
    assert known == [(0, 283.65), (2, 285.4)]


@pytest.mark.parametrize("change, expected", [
    (dict(value="windy"), "Row 1 of the table has no number in column 'value' but 'windy'"),
    (dict(time="07/06/2024 18:00"), "write it as 2024-06-07T18:00"),
    (dict(time=20240607.5), "Row 1 of the table has no time"),
    (dict(station="nowhere"), "The list of stations lacks nowhere"),
    (dict(variable="temprature_2m"), "Unknown variable 'temprature_2m'"),
    (dict(units="hPa"), "no units of 2 m temperature"),
    (dict(units="celsius"), "K, outside 170…340: correct it, or its units 'celsius'"),
])  # fmt: skip
def test_a_table_that_is_wrong(change, expected):
    forecast, seen = pair("2t")
    table = as_table(seen, "2t").astype(object)
    table.iloc[0, table.columns.get_indexer(change)] = list(change.values())
    with pytest.raises(WeatherError, match=expected):
        open_observations(table, places=forecast)


def test_a_table_that_repeats_or_lacks():
    forecast, seen = pair("2t")
    table = as_table(seen, "2t")
    with pytest.raises(WeatherError, match="more than once: keep one row"):
        open_observations(pd.concat([table, table.head(1)]), places=forecast)
    with pytest.raises(WeatherError, match="no column time, only .*: rename 'tme' or add it"):
        open_observations(table.rename(columns={"time": "tme"}), places=forecast)
    with pytest.raises(WeatherError, match="no column lat, .* or pass places=a list of stations"):
        open_observations(table)
    with pytest.raises(WeatherError, match="has no rows"):
        open_observations(table.head(0), places=forecast)
