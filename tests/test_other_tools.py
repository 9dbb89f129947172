"""What we write is read by tools that nobody here wrote: CDO, GDAL, iris, a CF checker, verif, xarray without options."""

import shutil
import subprocess
import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.batch import Normalizer
from microclimate.delivery.export import export_model
from microclimate.device.runner import forecast_onnx
from microclimate.errors import WeatherError
from microclimate.grid import Grid, cf_mapping, read_crs, regular_grid, to_degrees
from microclimate.models.baseline import Persistence
from microclimate.models.members import ensemble
from microclimate.models.registry import build_model
from microclimate.models.rollout import forecast, forecast_to_file
from microclimate.provenance import open_saved, provenance, save_dataset, to_cf, verify
from microclimate.scores.stations import at_stations, observations_from, read_stations, score_stations, write_verif
from microclimate.variables import CHANNELS, disk_name, variable
from microclimate.weather.climate import climatology, save_climatology
from microclimate.weather.forecasts import open_forecast
from microclimate.weather.open import open_weather

pytestmark = pytest.mark.filterwarnings("ignore:After .* the air of the whole region")
GRID = regular_grid(62, 60, 4, 7, 0.25)
LEADS, HOUR = np.arange(7), np.timedelta64(1, "h")
OLD = Path(__file__).parent / "data" / "forecasts_0.1.0.nc"
CDO, GDAL = shutil.which("cdo"), shutil.which("gdalinfo")
needs_cdo = pytest.mark.skipif(not CDO, reason="needs CDO: apt-get install cdo")
needs_gdal = pytest.mark.skipif(not GDAL, reason="needs GDAL: apt-get install gdal-bin")


class Drift(Persistence):
    "Persistence that warms by 0.1 K an hour and moves the rest by as little: no two states are the same."

    def __call__(self, batch):
        state = super().__call__(batch)
        return state.with_state(state.stack() * 1.0003, state.channels, state.metadata.time)


@pytest.fixture(scope="module")
def weather():
    "A day of synthetic weather with every channel of the contract."
    return open_weather("nature", region=GRID, time=("2024-06-01", "2024-06-01T23"))


@pytest.fixture(scope="module")
def projected(weather):
    "The same numbers on a grid along y and x."
    y, x = np.mgrid[8:-1:-1, 0:13] * 25e3
    crs = dict(grid_mapping_name="polar_stereographic", latitude_of_projection_origin=90.0,
               straight_vertical_longitude_from_pole=5.0, standard_parallel=60.0)
    grid = Grid(60 + y / 1.1e5 + x / 1e6, 5 + x / 5.5e4, x[0], y[:, 0], crs)
    moved = {n: (("time", "y", "x")[-da.ndim :], da.values, da.attrs) for n, da in weather.data_vars.items()}
    coords = grid.coords() | dict(time=weather.time)
    return xr.Dataset(moved, coords, weather.attrs).assign(crs=((), 0, crs))


@pytest.fixture(scope="module")
def files(weather, projected, tmp_path_factory):
    "One start, lead 0 included, from both writers; the same on a projected grid; several starts; a series."
    folder, starts = tmp_path_factory.mktemp("files"), weather.time.values[[3, 9, 15]]
    model = build_model("edge-dense", Normalizer.fit(weather), GRID, dims=(8, 8, 8)).eval()
    export_model(model, folder / "model.onnx", engines=("onnxruntime",))
    save_dataset(weather, folder / "series.nc", provenance(source="nature"))
    for name, ds, when in (("one", weather, starts[0]), ("many", weather, starts), ("projected", projected, starts[0])):
        forecast_to_file(Drift(), ds, when, 6, folder / f"{name}.nc", initial=True).close()
    forecast_onnx(folder / "model.onnx", folder / "series.nc", folder / "device.nc", 6, starts[0], with_start=True)
    return folder


@pytest.fixture(scope="module")
def places():
    return read_stations(pd.DataFrame(dict(id=[1, 2, 3], lat=[60.4, 61.1, 61.9], lon=[4.6, 5.3, 6.9], altitude=[10.0, 400, 5])))


def plain(path):
    "As xarray opens it without options."
    return xr.open_dataset(path, engine="netcdf4")


@pytest.mark.parametrize("name", ["one", "device", "projected"])
def test_one_start_along_valid_time(name, files, weather):
    verify(files / f"{name}.nc")
    with plain(files / f"{name}.nc") as ds:
        assert all(n[0].isalpha() for n in ds.variables)
        assert ds.encoding["unlimited_dims"] == {"time"}
        assert (ds.forecast_reference_time + ds.forecast_period == ds.time).all() and ds.forecast_reference_time == weather.time[3]
        np.testing.assert_array_equal(ds.forecast_period / HOUR, LEADS)
        np.testing.assert_array_equal(ds.time_bnds, np.stack([ds.time - HOUR, ds.time], 1))
        for ours in CHANNELS:
            da, row = ds[disk_name(ours)], variable(ours)
            assert da.dims == ("time", *Grid.from_dataset(ds).dims) and row.attrs.items() <= da.attrs.items()
            assert da.attrs["cell_methods"].startswith("time: mean" if row.kind == "flux" else "time: point")
        assert (ds.height_2m, ds.height_10m, ds.pressure_500hpa) == (2, 10, 500) and ds.pressure_500hpa.attrs["positive"] == "down"
        assert [ds[n].attrs["axis"] for n in ("time", *Grid.from_dataset(ds).dims)] == ["T", "Y", "X"]


def test_both_writers_have_one_layout(files, weather, tmp_path):
    "Step by step, all at once, and on a device: the same names, dimensions and attributes."
    whole = forecast(Drift(), weather, weather.time.values[3], 6, initial=True)
    save_dataset(whole, tmp_path / "whole.nc", {})
    with plain(files / "one.nc") as one, plain(tmp_path / "whole.nc") as whole, plain(files / "device.nc") as device:
        assert set(one.variables) == set(whole.variables) == set(device.variables)
        for name, da in one.variables.items():
            for other in (whole[name], device[name]):
                assert (da.dims, da.dtype, da.attrs) == (other.dims, other.dtype, other.attrs), name
                assert da.encoding.get("coordinates") == other.encoding.get("coordinates"), name
        xr.testing.assert_equal(one, whole)


def test_many_starts(files, weather):
    verify(files / "many.nc")
    with plain(files / "many.nc") as ds:
        assert ds.t2m.dims == ("forecast_reference_time", "forecast_period", "latitude", "longitude")
        assert "valid_time" in ds.t2m.coords and ds.valid_time.dims == ds.t2m.dims[:2]
        np.testing.assert_array_equal(ds.valid_time, ds.forecast_reference_time + ds.forecast_period)
        np.testing.assert_array_equal(ds.t2m[:, 0], weather["2t"].sel(time=ds.valid_time.values[:, 0]))


def test_they_come_back_as_they_were(files, weather, projected):
    "In our names: with lead 0 by `open_saved`, without it by `open_forecast`, along valid time by `open_weather`."
    for name, ds, when in (("one", weather, [3]), ("many", weather, [3, 9, 15]), ("projected", projected, [3])):
        made = forecast(Drift(), ds, weather.time.values[when], 6, initial=True)
        with open_saved(files / f"{name}.nc") as back: xr.testing.assert_equal(back.load(), made)
        opened = open_forecast(files / f"{name}.nc")
        assert all(da.chunks for n, da in opened.items() if n != "crs") and opened["tp"].attrs["window_hours"] == 1
        np.testing.assert_array_equal(opened["2t"], made["2t"][:, 1:])
    run = open_weather(files / "one.nc")
    with open_saved(files / "one.nc") as one: np.testing.assert_array_equal(run["10u"], one["10u"][0])
    back = open_weather(files / "series.nc")
    xr.testing.assert_equal(back, weather)
    assert back["tp"].attrs["window_hours"] == 1


def test_files_of_the_first_version():
    "`init_time` and `lead_time` as axes, our own names, seconds as whole numbers."
    assert verify(OLD)["version"] == "0.1.0"
    with netCDF4.Dataset(OLD) as file:
        inside, starts = {n: file[n][:] for n in ("2t", "10u", "tp", "z500")}, file["init_time"][:]
    opened = open_forecast(OLD)
    assert opened.sizes["lead_time"] == 3 and opened.attrs["model"] == "persistence" and opened["tp"].attrs["window_hours"] == 1
    np.testing.assert_array_equal(opened.init_time.values.astype("M8[s]").astype("i8"), starts)
    with open_saved(OLD) as same:
        for name, values in inside.items():
            np.testing.assert_array_equal(opened[name], values)
            np.testing.assert_array_equal(same[name], values)
    weather = open_weather(OLD)  # two runs stay runs, also where they do not overlap
    assert (weather.sizes["init_time"], weather.sizes["lead_time"]) == (2, 3)


def cdo(*words):
    "What CDO prints."
    done = subprocess.run([CDO, "-s", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_cdo
@pytest.mark.parametrize("name", ["one", "device", "projected", "series"])
def test_cdo_reads_it(name, files):
    "Every variable, all times, and each field at its own height."
    path = files / f"{name}.nc"
    with plain(path) as ds:
        fields = [n for n, da in ds.data_vars.items() if da.ndim > 1 and n != "time_bnds"]
        assert set(cdo("showname", path).split()) == set(fields) and {"t2m", "z500"} <= set(fields)
        assert int(cdo("ntime", path)) == ds.sizes["time"]
        assert cdo("showtimestamp", path).split() == [f"{t}"[:19] for t in ds.time.values]
        levels = dict(zip(cdo("showname", path).split(), cdo("showlevel", path).splitlines()))
        at = dict(t2m=2, d2m=2, u10=10, v10=10, z500=500, t850=850, r700=700, w500=500)
        assert {n: float(level) for n, level in levels.items()} == {n: at.get(n, 0) for n in fields}
    if name != "series": assert "ForecastRefTime = 2024-06-01T03:00:00" in " ".join(cdo("sinfo", path).split())


@needs_cdo
@pytest.mark.parametrize("name", ["one", "device", "projected"])
def test_cdo_computes_what_xarray_computes(name, files, tmp_path):
    path = files / f"{name}.nc"
    for what in ("timmean", "sellonlatbox,4.9,6.1,60.3,61.1", "selname,tp", "sellevel,850"):
        cdo(what, path, tmp_path / f"{what[:6]}.nc")
    with plain(path) as ds, plain(tmp_path / "timmea.nc") as mean, plain(tmp_path / "sellon.nc") as box:
        inside = ds.where((ds.latitude >= 60.3) & (ds.latitude <= 61.1) & (ds.longitude >= 4.9) & (ds.longitude <= 6.1), drop=True)
        for n in map(disk_name, CHANNELS):
            np.testing.assert_allclose(mean[n][0], ds[n].mean("time"), rtol=2e-6)
            if name != "projected": np.testing.assert_array_equal(box[n], inside[n])
            else: assert set(inside[n].values[np.isfinite(inside[n])]) <= set(box[n].values.ravel())
    with plain(tmp_path / "selnam.nc") as rain, plain(tmp_path / "sellev.nc") as level:
        assert {n for n, da in rain.items() if da.ndim == 3} == {"tp"} and {n for n, da in level.items() if da.ndim == 3} == {"t850"}
        np.testing.assert_array_equal(rain.time_bnds, ds.time_bnds)


@needs_cdo
def test_what_cdo_makes_of_it_opens_here(files, tmp_path):
    "Some times of a forecast, as weather. Of means over three hours the rates, which lie at the end of their bounds."
    cdo("seltimestep,2/7", files / "one.nc", tmp_path / "some.nc")
    assert set(CHANNELS) <= set(some := open_weather(tmp_path / "some.nc")) and some.sizes["time"] == 6
    cdo("timselmean,3", "-seltimestep,2/7", files / "one.nc", tmp_path / "means.nc")
    means = open_weather(tmp_path / "means.nc", ["tp", "ssrd"])
    np.testing.assert_allclose(means["tp"][1], some["tp"][3:].mean("time"), rtol=1e-5, atol=1e-6)
    assert means["time"][1] == some["time"][5]
    with pytest.raises(WeatherError, match="no time in common"):  # CDO still calls the means of states instants
        open_weather(tmp_path / "means.nc")


@needs_gdal
def test_gdal_reads_it(files):
    "A band for each time, north up, where it lies."
    for name in ("one", "device"):
        told = subprocess.run([GDAL, f"NETCDF:{files / name}.nc:t2m"], capture_output=True, text=True).stdout
        assert "Size is 13, 9" in told and f"Band {len(LEADS)} " in told and f"Band {len(LEADS) + 1} " not in told
        assert "Origin = (3.875000000000000,62.125000000000000)" in told and "Pixel Size = (0.250000000000000,-0.250000000000000)" in told


def complaints(path, tmp_path):
    "What a checker of the CF conventions, 1.11, finds: errors, and warnings."
    checker = pytest.importorskip("compliance_checker.runner", reason="the dev extra is not installed")
    checker.CheckSuite.load_all_available_checkers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checker.ComplianceChecker.run_checker(
            str(path), ["cf:1.11"], verbose=0, criteria="normal", output_filename=str(tmp_path / "report.json"), output_format="json")
    report = pd.read_json(tmp_path / "report.json", typ="series")["cf:1.11"]
    texts = {key: [m for found in report[key] for m in found["msgs"]] for key in ("high_priorities", "medium_priorities", "low_priorities")}
    return texts.pop("high_priorities"), sum(texts.values(), [])


@pytest.mark.parametrize("name", ["one", "device", "projected", "series", "many"])
def test_the_cf_checker_finds_nothing(name, files, tmp_path):
    errors, others = complaints(files / f"{name}.nc", tmp_path)
    assert not errors
    assert not [text for text in others if name != "many" or "not in the recommended order T, Z, Y, X" not in text]


PROJECTIONS = {  # and a corner of the grid, x and y
    "+proj=lcc +lat_1=63 +lat_0=50 +lon_0=15 +R=6371000": (0, 1.2e6),
    "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6371229": (2e5, -3e6),
    "+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80": (-1e5, 8e5),
    "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +R=6371000": (-6, 2),
}


@pytest.mark.parametrize("proj", PROJECTIONS)
def test_nor_on_any_projection(proj, tmp_path):
    "A series and a forecast, metres or degrees along their axes."
    mapping, (x0, y0) = cf_mapping(proj), PROJECTIONS[proj]
    step = 0.5 if "ob_tran" in proj else 5e4
    x, y = x0 + step * np.arange(6), y0 - step * np.arange(5)
    lon, lat = to_degrees(read_crs(mapping))(*np.meshgrid(x, y))
    weather = open_weather("nature", region=Grid(lat, lon, x, y, mapping), time=("2024-06-01", "2024-06-01T05"))
    save_dataset(weather, tmp_path / "series.nc", {})
    forecast_to_file(Drift(), weather, weather.time.values[2], 3, tmp_path / "forecast.nc").close()
    for name in ("series", "forecast"): assert complaints(tmp_path / f"{name}.nc", tmp_path) == ([], [])


def test_nor_in_climatologies_starts_and_verif(weather, places, tmp_path):
    "verif calls the start of a forecast `time`, which the checker takes for the valid time; nothing else is found."
    save_climatology(climatology(weather), tmp_path / "climatology.nc")
    to_cf(weather).to_netcdf(tmp_path / "start.nc", format="NETCDF3_64BIT")  # as `run_export` puts it beside a model
    for name in ("climatology", "start"): assert complaints(tmp_path / f"{name}.nc", tmp_path) == ([], [])
    made = forecast(Drift(), weather, weather.time.values[3], 6)
    write_verif(at_stations(made, places, ground=weather), observations_from(weather, places), "2t", tmp_path / "verif.nc", units="celsius")
    errors, others = complaints(tmp_path / "verif.nc", tmp_path)
    assert not others and all("should have standard_name='time'" in text for text in errors)


def test_the_cf_checker_does_find_something(tmp_path):
    "In a file of the first version."
    assert any("should begin with a letter" in text for text in complaints(OLD, tmp_path)[1])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["one", "device", "projected", "many"])
def test_iris_reads_it(name, files):
    "With every coordinate of a forecast."
    iris = pytest.importorskip("iris", reason="the dev extra is not installed")
    cubes = iris.load(str(files / f"{name}.nc"))
    assert {cube.var_name for cube in cubes} == {disk_name(n) for n in CHANNELS}
    at = lambda var_name: next(cube for cube in cubes if cube.var_name == var_name)
    warm, high, rain = at("t2m"), at("z500"), at("tp")
    for cube in (warm, high, rain): assert {"time", "forecast_reference_time", "forecast_period"} <= {c.name() for c in cube.coords()}
    assert warm.coord("height").points == 2 and high.coord("air_pressure").points == 500 and not rain.coords("height")
    assert rain.cell_methods[0].method == "mean" and warm.units == "K"
    if name == "many": return
    assert [c.name() for c in rain.coords(dim_coords=True)][:1] == ["time"] and rain.coord("time").has_bounds()
    period = warm.coord("forecast_period").copy()
    period.convert_units("hours")
    np.testing.assert_array_equal(period.points, LEADS)


@pytest.mark.parametrize("members", [0, 3])
def test_forecasts_in_memory_are_taken_as_they_are(members, weather, places, tmp_path):
    "What `forecast` and `ensemble` return goes to stations, to verif and to a file without another word."
    start = weather.time.values[3]
    made = ensemble(Persistence(), weather, start, 6, members, size=1.0) if members else forecast(Drift(), weather, start, 6)
    for name in CHANNELS: assert variable(name).attrs.items() <= made[name].attrs.items()
    there, seen = at_stations(made, places, ground=weather), observations_from(weather, places)
    table = score_stations(there, seen, ["2t", "tp", "wind"])
    assert table.value.notna().all() and set(table.units) == {"K", "kg m-2 h-1", "m s-1"}
    path = write_verif(there, seen, "2t", tmp_path / "verif.nc", units="celsius")
    reader = pytest.importorskip("verif.input", reason="the dev extra is not installed").get_input(str(path))
    np.testing.assert_allclose(reader.fcst[0], there["2t"].mean("number")[0] - 273.15 if members else there["2t"][0] - 273.15, atol=1e-4)
    np.testing.assert_array_equal(reader.leadtimes, LEADS[1:])
    made.to_netcdf(tmp_path / "plain.nc")
    save_dataset(made, tmp_path / "saved.nc", {})
    with open_saved(tmp_path / "saved.nc") as back: xr.testing.assert_equal(back.load(), made)
    for file in ("plain.nc", "saved.nc"):
        opened = open_forecast(tmp_path / file)
        for name in CHANNELS: np.testing.assert_array_equal(opened[name].transpose(*made[name].dims), made[name])
