"""Sums become rates over the right hours, or are refused in one sentence."""
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from microclimate import open_weather
from microclimate.errors import WeatherError

GRID = dict(latitude=[61.0, 60.5, 60.0], longitude=[9.0, 9.5, 10.0, 10.5])
DIMS = ("time", "latitude", "longitude")
ECMWF = dict(institution="European Centre for Medium-Range Weather Forecasts")


def hours(n, start="2024-06-01", step="h"):
    return pd.date_range(start, periods=n, freq=step)


def sums(values, time, name="tp", units="mm", ds_attrs=None, coords=None, **attrs):
    "A Dataset of one sum, the same at all points."
    field = np.reshape(values, (-1, 1, 1)) * np.ones((1, 3, 4))
    return xr.Dataset({name: (DIMS, field, dict(units=units, **attrs))},
                      dict(time=time, **GRID, **(coords or {})), ds_attrs)


def opened(ds, tmp_path, **how):
    "Through a file, as a user would."
    ds.to_netcdf(tmp_path / "sums.nc", engine="netcdf4")
    return open_weather(tmp_path / "sums.nc", **how)


def series(ds): return ds["tp"].values[:, 0, 0]


def gappy(value, **how):
    ds = sums([0, 2e-3, 1e-3, 2e-3], hours(4), units="m", ds_attrs=ECMWF)
    ds["tp"].values[:, 0, 0] = value
    return ds


@pytest.mark.parametrize("mark", [np.nan, -9999, -999, 1e20])
def test_missing_sums_are_refused_or_stay_missing(mark, tmp_path):
    with pytest.raises(WeatherError, match="tp in .*(missing|not possible)"):
        opened(gappy(mark), tmp_path)
    with pytest.warns(UserWarning, match="missing|not possible"):
        kept = opened(gappy(mark), tmp_path, strict=False)
    assert np.isnan(kept["tp"].values[:, 0, 0]).all()
    np.testing.assert_allclose(kept["tp"].values[:, 1, 1], [0, 2, 1, 2], rtol=1e-6)


@pytest.mark.parametrize("mark", [np.nan, -9999])
def test_missing_sums_are_seen_lazily(mark, tmp_path):
    with pytest.raises(WeatherError, match="tp in .*(missing|not possible)"):
        opened(gappy(mark), tmp_path, lazy=True).compute()


def test_a_gap_leaves_the_rest_of_the_run(tmp_path):
    ds = sums(np.arange(13.0), hours(13), "precipitation_amount_acc",
              coords=dict(forecast_reference_time=hours(1)[0]))
    ds["precipitation_amount_acc"].values[6, 2, 2] = np.nan
    with pytest.warns(UserWarning, match="2 missing values"):
        tp = opened(ds, tmp_path, strict=False)["tp"]
    np.testing.assert_allclose(tp[1:, 0, 0], 1)
    assert np.flatnonzero(np.isnan(tp[:, 2, 2])).tolist() == [6, 7]


def test_a_forecast_of_mars_is_not_taken_for_hourly_sums(tmp_path):
    ds = sums(np.arange(1, 7) * 1e-3, hours(6, "2024-06-01T01"), units="m",
              ds_attrs=dict(history="grib_to_netcdf /opt/ecmwf/mars"))
    with pytest.raises(WeatherError, match=r"sums=\{'tp': 'since_start'\}"): opened(ds, tmp_path)
    np.testing.assert_allclose(opened(ds, tmp_path, sums=dict(tp="since_midnight"))["tp"], 1)
    hourly = opened(ds, tmp_path, sums=dict(tp="per_step"))
    np.testing.assert_allclose(series(hourly), np.arange(1, 7))
    with pytest.warns(UserWarning, match="left out"):
        grown = opened(ds, tmp_path, sums=dict(tp="since_start"))
    assert grown.sizes["time"] == 5
    np.testing.assert_allclose(grown["tp"], 1, rtol=1e-6)


def test_era5_land_counts_from_midnight(tmp_path):
    time = hours(48, "2024-06-01T01")
    counted = ((time.hour - 1) % 24 + 1) * 1e-3
    land = opened(sums(counted, time, units="m", ds_attrs=ECMWF), tmp_path)
    np.testing.assert_allclose(land["tp"], 1, rtol=1e-5)
    assert land["tp"].attrs["window_hours"] == 1


def test_hourly_era5_stays(tmp_path):
    mm = np.array([0, 2, 1, 0, 3, 0.5])
    np.testing.assert_allclose(series(opened(sums(mm / 1e3, hours(6), units="m",
                                                  ds_attrs=ECMWF), tmp_path)), mm, rtol=1e-6)


def test_the_sun_of_a_morning_is_no_sum_since_the_start(tmp_path):
    "Hourly sums of radiation rise all morning; the hours around the request tell."
    time = hours(72)
    sun = 2e6 * np.clip(np.sin((time.hour.values - 4) / 16 * np.pi), 0, None)
    ds = sums(sun, time, "ssrd", "J m-2", ECMWF)
    morning = opened(ds, tmp_path, time=("2024-06-02T05", "2024-06-02T11"))
    np.testing.assert_allclose(morning["ssrd"].values[:, 0, 0], sun[29:36] / 3600, rtol=1e-6)


def test_one_hour_sums_every_six_hours_keep_their_window(tmp_path):
    ds = opened(sums([1e-3, 0, 2e-3, 1e-3], hours(4, step="6h"), units="m", ds_attrs=ECMWF),
                tmp_path)
    np.testing.assert_allclose(series(ds), [1, 0, 2, 1], rtol=1e-6)
    assert ds["tp"].attrs["window_hours"] == 1 and ds.attrs["step_hours"] == 6


def test_monthly_means_are_amounts_of_a_day(tmp_path):
    months = pd.to_datetime(["2024-06-01", "2024-07-01"])
    ds = opened(sums([24e-3, 12e-3], months, units="m", ds_attrs=ECMWF), tmp_path)
    np.testing.assert_allclose(series(ds), [1, 0.5], rtol=1e-6)


def test_gfs_buckets(tmp_path):
    step = np.array([3, 6, 9, 12], "m8[h]").astype("m8[ns]")
    cfgrib = sums([3, 6, 3, 6], step, ds_attrs=dict(GRIB_centre="kwbc")).rename(time="step")
    cfgrib = cfgrib.assign_coords(time=hours(1)[0], valid_time=("step", hours(1)[0] + step))
    np.testing.assert_allclose(opened(cfgrib, tmp_path)["tp"], 1)
    unnamed = cfgrib.drop_attrs(deep=False)
    with pytest.raises(WeatherError, match="sums="): opened(unnamed, tmp_path)


@pytest.mark.parametrize("n, time", [(1, "2024-06-01T12"), (2, "2024-06-01T11")])
def test_times_of_a_sum_since_a_known_start(n, time, tmp_path):
    values = np.array([6.0]) if n == 1 else np.array([5.5, 6.0])
    ds = sums(values, hours(n, time), "precipitation_amount_acc", "kg/m^2",
              coords=dict(forecast_reference_time=hours(1)[0]))
    np.testing.assert_allclose(opened(ds, tmp_path)["tp"], 0.5)


def test_one_time_of_an_unknown_sum_is_refused(tmp_path):
    with pytest.raises(WeatherError, match="unknown hours"): opened(sums([6.0], hours(1)), tmp_path)


def test_what_values_contradict_is_refused(tmp_path):
    showers = sums([0, 2, 1, 0, 3, 0.5], hours(6))
    for rule in ("since_start", "since_midnight"):
        with pytest.raises(WeatherError, match="falls at 2024-06-01T02:00"):
            opened(showers, tmp_path, sums=dict(tp=rule))
    acc = sums([0, 2, 1, 0], hours(4), "precipitation_amount_acc")
    with pytest.raises(WeatherError, match="falls at"): opened(acc, tmp_path)
    words = sums([0, 2, 1, 0], hours(4), long_name="precipitation accumulated since midnight")
    np.testing.assert_allclose(series(opened(words, tmp_path)), [0, 2, 1, 0])


@pytest.mark.parametrize("told", [dict(tp="hourly"), {"2t": "per_step"}, dict(rain="per_step")])
def test_sums_takes_three_words(told, tmp_path):
    with pytest.raises(WeatherError): opened(sums([1.0, 2], hours(2)), tmp_path, sums=told)


@pytest.mark.parametrize("at", [0.5, 1])
def test_means_belong_to_the_end_of_their_bounds(at, tmp_path):
    days = np.stack([np.arange(3.0), np.arange(3.0) + 1], 1)
    time = ("time", np.arange(3) + at, dict(units="days since 2024-06-01", bounds="time_bnds"))
    ds = sums([1e-4, 0, 0], time, "pr", "kg m-2 s-1", cell_methods="time: mean")
    ds = opened(ds.assign(time_bnds=(("time", "bnds"), days)), tmp_path)
    assert str(ds.time.values[0])[:16] == "2024-06-02T00:00"
    np.testing.assert_allclose(series(ds), [0.36, 0, 0], rtol=1e-6)
    assert ds["tp"].attrs["window_hours"] == 24


def test_sums_of_bounds(tmp_path):
    bounds = np.stack([np.arange(4.0) - 3, np.arange(4.0)], 1)
    time = ("time", np.arange(4.0), dict(units="hours since 2024-06-01", bounds="time_bnds"))
    ds = sums([3, 0, 6, 3], time, cell_methods="time: sum")
    ds = opened(ds.assign(time_bnds=(("time", "bnds"), bounds)), tmp_path)
    np.testing.assert_allclose(series(ds), [1, 0, 2, 1])
    assert ds["tp"].attrs["window_hours"] == 3
