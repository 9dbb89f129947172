"""Files of one series join, runs stay runs, and times that cannot be understood are refused."""
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from microclimate import open_weather
from microclimate.errors import WeatherError

GRID = dict(latitude=[61.0, 60.5, 60.0], longitude=[9.0, 9.5, 10.0, 10.5])
DIMS = ("time", "latitude", "longitude")


def hours(n, start="2024-06-01"): return pd.date_range(start, periods=n, freq="h")


def warm(time, base=280.0, **coords):
    "Temperatures that rise by a kelvin an hour, a reference start among the coordinates."
    since = (pd.DatetimeIndex(time) - hours(1)[0]) / pd.Timedelta("1h")
    field = base + np.asarray(since).reshape(-1, 1, 1) * np.ones((1, 3, 4))
    return xr.Dataset({"t2m": (DIMS, field, dict(units="K"))}, dict(time=time, **GRID, **coords))


def saved(folder, *parts):
    for k, ds in enumerate(parts): ds.to_netcdf(folder / f"{k}.nc", engine="netcdf4")
    return str(folder / "*.nc")


def started(time, start, **how):
    return warm(time, forecast_reference_time=np.datetime64(start, "ns"), **how)


def test_a_file_for_each_time(tmp_path):
    ds = open_weather(saved(tmp_path, *(warm(hours(3)).isel(time=k) for k in range(3))))
    assert ds["2t"].dims == DIMS
    np.testing.assert_allclose(ds["2t"][:, 0, 0], [280, 281, 282])


def test_files_that_share_an_hour(tmp_path):
    source = saved(tmp_path, warm(hours(25)), warm(hours(25, "2024-06-02")))
    assert open_weather(source).sizes["time"] == 49


def test_a_shared_hour_that_differs_is_refused(tmp_path):
    source = saved(tmp_path, warm(hours(25)), warm(hours(25, "2024-06-02"), base=285))
    with pytest.raises(WeatherError, match="2024-06-02T00:00.*0.nc and .*1.nc.*different values"):
        open_weather(source)


def test_runs_end_to_end_are_no_series(tmp_path):
    runs = (started(hours(24, f"2024-06-0{d}T01"), f"2024-06-0{d}") for d in (1, 2))
    ds = open_weather(saved(tmp_path, *runs))
    assert ds.sizes["init_time"] == 2 and ds.sizes["lead_time"] == 24


def test_analyses_are_a_series(tmp_path):
    ds = open_weather(saved(tmp_path, *(started(hours(1, t), t) for t in hours(3))))
    assert ds.sizes["time"] == 3 and "init_time" not in ds.dims


def test_a_file_without_a_start_beside_one_with(tmp_path):
    other = warm(hours(6)).rename(t2m="msl").assign_coords(time=hours(6))
    other["msl"] = other["msl"] + 1e5
    other["msl"].attrs["units"] = "Pa"
    ds = open_weather(saved(tmp_path, started(hours(6), "2024-06-01"), other))
    assert set(ds.data_vars) == {"2t", "msl"} and ds.sizes["time"] == 6
    lone = warm(hours(6, "2024-07-01"))
    with pytest.raises(WeatherError, match="forecast_reference_time"):
        open_weather(saved(tmp_path, started(hours(6), "2024-06-01"), lone))


def test_a_start_without_units(tmp_path):
    ds = warm(hours(2), forecast_reference_time=1.4e9)
    with pytest.raises(WeatherError, match="start of the run .*'units'"):
        open_weather(saved(tmp_path, ds))


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_calendars_of_models_are_named(calendar, tmp_path):
    about = dict(units="days since 2000-02-27", calendar=calendar)
    ds = warm(hours(3)).assign_coords(time=("time", np.arange(3) + 0.5, about))
    with pytest.raises(WeatherError, match=calendar): open_weather(saved(tmp_path, ds))


def test_far_times_are_named(tmp_path):
    about = dict(units="hours since 2300-01-01")
    ds = warm(hours(3)).assign_coords(time=("time", np.arange(3.0), about))
    with pytest.raises(WeatherError, match="2300"): open_weather(saved(tmp_path, ds))


def test_a_dataset_in_memory():
    np.testing.assert_allclose(open_weather(warm(hours(3)))["2t"][:, 0, 0], [280, 281, 282])


def test_preliminary_era5_is_said(tmp_path):
    versions = ("time", np.array(["0001", "0001", "0005"]))
    ds = open_weather(saved(tmp_path, warm(hours(3)).assign_coords(expver=versions)))
    assert ds.attrs["preliminary"] == "ERA5T at 1 times from 2024-06-01T02:00 UTC on"


def test_geopotential_in_metres_is_refused():
    z = warm(hours(2)).rename(t2m="z500")
    z["z500"] = z["z500"] * 0 + 5500.0
    z["z500"].attrs.update(units="m2 s-2", long_name="500 hPa geopotential")
    with pytest.raises(WeatherError, match="z500 in .*not possible"): open_weather(z)
    z["z500"].attrs["units"] = "m"
    assert abs(float(open_weather(z)["z500"].mean()) - 5500 * 9.80665) < 1


@pytest.mark.parametrize("held", [2**28, 0])
@pytest.mark.parametrize("step", ["h", "3h"])
def test_many_files_of_one_layout_are_read_as_one(held, step, tmp_path, monkeypatch):
    import microclimate.weather.open as rooms
    whole = warm(pd.date_range("2024-06-01", periods=9, freq=step))
    whole["tp"] = whole["t2m"] * 0 + np.reshape([0, 2, 1, 0, 3, 0, 0, 1, 0], (-1, 1, 1))
    whole["tp"].attrs["units"] = "mm"
    source = saved(tmp_path, *(whole.isel(time=slice(k, k + 1)) for k in range(9)))
    with monkeypatch.context() as patch:
        patch.setattr(rooms, "open_alike", lambda paths: None)
        expected = open_weather(source)
    monkeypatch.setattr(rooms, "_HELD", held)
    assert rooms.open_alike(rooms.resolve_source(source)) is not None
    xr.testing.assert_identical(open_weather(source), expected)
    part = dict(variables=["2t"], region=(61, 60.5, 9.5, 10.5), time=whole.time.values[3:5])
    xr.testing.assert_equal(open_weather(source, **part), open_weather(whole, **part))


def test_a_file_that_differs_is_named(tmp_path):
    parts = [warm(hours(6)).isel(time=slice(k, k + 1)) for k in range(6)]
    parts[4]["t2m"].attrs["units"] = "degrees"
    with pytest.raises(WeatherError, match="2t in .*4.nc has the units 'degrees'"):
        open_weather(saved(tmp_path, *parts))
