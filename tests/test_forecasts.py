"""Forecasts: what a run writes opens as what it returned, stays on disk, scores the same, and goes to WeatherBench 2 and back."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

from microclimate.models.baseline import Persistence
from microclimate.errors import WeatherError
from microclimate.provenance import open_saved, verify
from microclimate.weather.open import open_weather
from microclimate.scores.evaluate import score
from microclimate.weather.forecasts import open_forecast, to_wb2, write_wb2
from microclimate.models.rollout import forecast, forecast_to_file

pytestmark = pytest.mark.filterwarnings("ignore:After .* the air of the whole region")
NAMES = ["2t", "10u", "10v", "tp", "z500"]


def leads(*hours):
    return np.array(hours, "m8[h]").astype("m8[ns]")


@pytest.fixture(scope="module")
def truth():
    "Two days of synthetic weather in the south of Norway."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_weather("nature", NAMES, region=(61, 58.5, 6, 10.25), time=("2024-06-01", "2024-06-03"))


@pytest.fixture(scope="module")
def runs(truth, tmp_path_factory):
    "Two files of persistence, three runs and two, and the same forecasts in memory."
    folder, starts = tmp_path_factory.mktemp("runs"), truth["time"].values[[0, 5, 11, 18, 30]]
    for name, part in (("late", starts[3:]), ("early", starts[:3])):
        forecast_to_file(Persistence(), truth, part, 9, folder / f"{name}.nc").close()
    return folder, forecast(Persistence(), truth, starts, 9)


def same(one, other):
    for name in NAMES: np.testing.assert_array_equal(one[name].values, other[name].values)
    for axis in ("init_time", "lead_time", "latitude", "longitude"): np.testing.assert_array_equal(one[axis], other[axis])


def test_our_files_open_as_they_were_written(runs):
    folder, made = runs
    opened = open_forecast(f"{folder}/*.nc")
    same(opened, made)
    assert all(opened[name].chunks for name in NAMES) and opened["2t"].attrs["units"] == "K"
    assert {k: opened.attrs[k] for k in ("model", "boundary", "synthetic")} == dict(model="persistence", boundary="none", synthetic=1)
    late = open_saved(folder / "late.nc")
    assert open_forecast(folder / "late.nc").attrs["source_sha256"] == late.attrs["content_sha256"]


def test_an_opened_forecast_scores_like_one_in_memory(runs, truth):
    folder, made = runs
    opened = open_forecast(f"{folder}/*.nc")
    lazily, at_once = (score(f, truth, ("rmse", "bias")) for f in (opened, made))
    xr.testing.assert_allclose(lazily, at_once, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_weatherbench_and_back(runs, tmp_path, suffix):
    folder, made = runs
    path = write_wb2(open_forecast(f"{folder}/*.nc"), tmp_path / f"persistence{suffix}")
    back = open_forecast(path)
    for name in NAMES: np.testing.assert_allclose(back[name], made[name], rtol=3e-7, atol=1e-9)
    raw = xr.open_zarr(path) if suffix == ".zarr" else xr.open_dataset(path, engine="netcdf4")  # without options
    assert "total_precipitation_1hr" in raw and raw["2m_temperature"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
    np.testing.assert_array_equal(raw["time"] + raw["prediction_timedelta"], made["init_time"] + made["lead_time"])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    raw.close()


def test_a_store_is_replaced_whole(runs, tmp_path):
    made = runs[1]
    path = write_wb2(made, tmp_path / "p.zarr")
    write_wb2(made.isel(init_time=slice(2), lead_time=slice(4)), path)
    assert dict(open_forecast(path, ["2t"]).sizes) == dict(init_time=2, lead_time=4, latitude=11, longitude=18)


def test_a_store_may_be_written_onto_the_file_it_comes_from(runs, tmp_path):
    path = write_wb2(runs[1], tmp_path / "p.nc")
    write_wb2(open_forecast(path).isel(lead_time=slice(0, 2)), path)
    assert open_forecast(path).sizes["lead_time"] == 2


def test_projected_runs_come_back_in_their_own_rows(tmp_path):
    "A grid along y and x, with its projection, from our own file."
    from microclimate.grid import Grid
    lambert = pyproj.CRS("+proj=lcc +lat_1=63.3 +lat_0=63.3 +lon_0=15 +R=6371000")
    x, y = np.arange(8) * 2500.0 - 320_000, np.arange(6) * -2500.0 - 260_000
    lon, lat = pyproj.Transformer.from_crs(lambert, lambert.geodetic_crs, always_xy=True).transform(*np.meshgrid(x, y))
    grid = Grid(lat, lon, x, y, {k: v for k, v in lambert.to_cf().items() if k != "crs_wkt"})
    hours = pd.date_range("2024-06-01", periods=5, freq="h").values.astype("M8[ns]")
    values = np.random.default_rng(0).normal(280, 4, (5, 6, 8)).astype("f4")
    ds = xr.Dataset({"2t": (("time", "y", "x"), values)}, coords=grid.coords() | dict(time=hours)).assign(crs=((), 0, grid.crs))
    forecast_to_file(Persistence(), ds, hours[[1, 3]], 3, tmp_path / "p.nc").close()
    opened = open_forecast(tmp_path / "p.nc")
    np.testing.assert_array_equal(opened["2t"][1, 2], values[3])
    np.testing.assert_array_equal(opened["y"], ds["y"])
    assert opened["crs"].attrs["grid_mapping_name"] == "lambert_conformal_conic" and Grid.from_dataset(opened).same(grid)
    rows, columns = grid.window(*(box := (lat[1:4].max(), lat[1:4].min(), lon[:, 2:5].min(), lon[:, 2:5].max())))
    cut = open_forecast(tmp_path / "p.nc", region=box)
    np.testing.assert_array_equal(cut["2t"][0, 0], values[1][rows, columns])


def wb2(lead=(6, 12, 18), **axes):
    "A small field in WeatherBench 2's layout, its values telling where they belong."
    axes = dict(time=pd.date_range("2020-01-01", periods=3, freq="12h").values.astype("M8[ns]"), prediction_timedelta=np.asarray(lead),
                latitude=np.linspace(-10, 10, 5), longitude=np.arange(0, 360, 60.0)) | axes
    values = 250 + np.arange(np.prod([len(a) for a in axes.values()]), dtype="f4").reshape([len(a) for a in axes.values()]) / 20
    return xr.Dataset({"2m_temperature": (tuple(axes), values, dict(units="K"))}, axes)


@pytest.mark.parametrize("lead", [np.array([6, 12, 18]), np.array([6, 12, 18]) * 3_600_000_000_000, leads(6, 12, 18)])
def test_leads_of_every_kind(lead, tmp_path):
    wb2(lead).to_netcdf(tmp_path / "f.nc", engine="netcdf4")
    np.testing.assert_array_equal(open_forecast(tmp_path / "f.nc")["lead_time"], leads(6, 12, 18))


def test_a_run_with_a_start_and_steps(tmp_path):
    "ECMWF's layout of one run: a scalar `time`, and `step`."
    whole = wb2()
    whole.isel(time=1).rename(prediction_timedelta="step", latitude="lat", longitude="lon").to_netcdf(tmp_path / "f.nc", engine="netcdf4")
    opened = open_forecast(tmp_path / "f.nc")
    np.testing.assert_array_equal(opened["2t"][0], whole["2m_temperature"].values[1, :, ::-1])
    np.testing.assert_array_equal(opened["init_time"], whole["time"].values[[1]])


def test_a_box_across_the_meridian(tmp_path):
    wb2().to_zarr(tmp_path / "f.zarr", zarr_format=2, consolidated=True)
    opened = open_forecast(tmp_path / "f.zarr", region=(5, -5, -70, 70))
    np.testing.assert_array_equal(opened["longitude"], [-60, 0, 60])
    np.testing.assert_array_equal(opened["2t"][2, 1], wb2()["2m_temperature"].values[2, 1, 3:0:-1][:, [5, 0, 1]])


def test_text_beside_the_fields_is_no_obstacle(tmp_path):
    wb2().assign(expver=("time", ["0001", "0001", "0005"])).to_netcdf(tmp_path / "f.nc", engine="netcdf4")
    assert list(open_forecast(tmp_path / "f.nc")) == ["2t"]


def test_refused(tmp_path, runs):
    wb2(realm=np.arange(2)).to_netcdf(tmp_path / "realm.nc", engine="netcdf4")
    wb2(time=pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-01"])).to_netcdf(tmp_path / "twice.nc", engine="netcdf4")
    later = wb2().isel(prediction_timedelta=slice(2)).assign_coords(time=wb2()["time"] + np.timedelta64(1, "h"))
    later.to_netcdf(tmp_path / "b.nc", engine="netcdf4")
    wb2().to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    (tmp_path / "short.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:3000])
    for source, words in {"realm.nc": "dimension realm of 2", "twice.nc": "2020-01-01 00:00 UTC is in .*twice.nc and .*twice.nc",
                          "short.nc": "was cut short", "missing.nc": "There is no file"}.items():
        with pytest.raises(WeatherError, match=words): open_forecast(tmp_path / source)
    with pytest.raises(WeatherError, match="different models, 'a' and 'b'"):
        for name in "ab": wb2().assign_attrs(model=name).to_netcdf(tmp_path / f"m{name}.nc", engine="netcdf4")
        open_forecast([tmp_path / "ma.nc", tmp_path / "mb.nc"])
    with pytest.raises(WeatherError, match="different grids"): open_forecast([tmp_path / "a.nc", runs[0] / "early.nc"], model="both")
    with pytest.warns(UserWarning, match="1 of 3 lead times"): assert open_forecast(tmp_path / "[ab].nc", model="m").sizes["lead_time"] == 2
    with pytest.raises(WeatherError, match="Unknown variable"): open_forecast(tmp_path / "a.nc", ["t2m_max"])


def test_what_weatherbench_cannot_hold(runs):
    unsaid = runs[1].assign(tp=runs[1]["tp"].drop_attrs())  # nobody says over how many hours the rate is the mean
    with pytest.raises(WeatherError, match="evenly spaced"): to_wb2(unsaid.isel(lead_time=[0, 1, 4]))
    with pytest.raises(WeatherError, match="needs init_time"): to_wb2(runs[1].isel(init_time=0))


def test_real_runs(shared):
    "AROME-Arctic tells its start in words; AROME-MetCoOp's radiation tells none; a GRIB file is one lead."
    arctic, states = (f(shared / "arome_arctic_2p5km_20180710.nc", ["2t", "10u", "tp", "z500"]) for f in (open_forecast, open_weather))
    assert arctic["init_time"].values[0] == states["time"].values[0] and arctic.sizes["lead_time"] == 16
    np.testing.assert_allclose(arctic["tp"][0], states["tp"][1:], rtol=1e-5, atol=1e-6)
    metcoop = open_forecast(shared / "arome_metcoop_2015/*.nc")
    assert (metcoop.sizes["init_time"], metcoop.sizes["lead_time"]) == (3, 66) and float(metcoop["ssrd"].max()) < 1400
    grib = open_forecast(shared / "arome_arctic_20180710_00+006.grib", ["2t"])
    np.testing.assert_allclose(grib["2t"][0, 0], arctic["2t"].sel(lead_time=np.timedelta64(6, "h"))[0], atol=0.01)


@pytest.mark.parametrize("name", ["era5_finse_2018/SURF_201810.nc", "era5_gulf_2003_2007/era5_2003.nc", "era5_static_norway_64x112.nc"])
def test_real_analyses_are_no_forecasts(shared, name):
    with pytest.raises(WeatherError, match="holds no forecast"): open_forecast(shared / name)


def test_an_archive_never_fills_memory(tmp_path):
    "Thirty files of 23 MB each, read through block by block, in a process that may hold but a part of them."
    code = f"""
import resource, numpy as np, pandas as pd, xarray as xr
from microclimate.weather.forecasts import open_forecast
from microclimate.scores.verification import plan_blocks
lead = np.arange(1, 41).astype("m8[h]").astype("m8[ns]")
field = np.broadcast_to(np.float32(280) + np.arange(112, dtype="f4") / 2, (20, 40, 64, 112))
axes = dict(latitude=70 - np.arange(64) / 4, longitude=4 + np.arange(112) / 4, lead_time=lead)
for k in range(30):
    start = pd.date_range("2023", periods=600, freq="6h")[20 * k : 20 * k + 20]
    ds = xr.Dataset({{"2t": (("init_time", "lead_time", "latitude", "longitude"), field, dict(units="K"))}}, axes | dict(init_time=start))
    ds.to_netcdf(f"{tmp_path}/{{k:02d}}.nc", engine="netcdf4", encoding={{"2t": dict(zlib=True, complevel=1, chunksizes=(1, 1, 64, 112))}})
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ds = open_forecast("{tmp_path}/*.nc")
before, means = rss(), [float(ds["2t"].isel(init_time=i, lead_time=j).mean()) for i, j in plan_blocks(ds["2t"])]
assert ds["2t"].nbytes > 680e6 and np.allclose(means, 307.75)
print(rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 250, f"{done.stdout} MiB more than to open it"


def test_our_file_is_verified_as_before(runs):
    assert verify(runs[0] / "late.nc")["model"] == "persistence"
