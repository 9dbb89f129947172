"""ERA5 from a cloud store: a small one with the public stores' layout and names, served over HTTP and counted."""

import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.weather.open import ERA5_CREDIT, open_weather

HOURS = pd.date_range("2024-05-31", "2024-06-03 02:00", freq="h")
LEVELS = [300, 500, 700, 850]
NORWAY_ISH = (66.0, 58.0, 4.0, 12.0)  # north, south, west, east
ACROSS = (62.0, 56.0, -6.0, 4.0)  # over Greenwich

SURFACE = {  # name in the store: (units, mean, spread)
    "2m_temperature": ("K", 283, 6), "2m_dewpoint_temperature": ("K", 278, 5), "10m_u_component_of_wind": ("m s**-1", 1, 4),
    "10m_v_component_of_wind": ("m s**-1", -1, 4), "mean_sea_level_pressure": ("Pa", 101000, 700),
    "total_cloud_cover": ("(0 - 1)", 0.5, 0.1), "total_precipitation": ("m", 5e-4, 1e-4),
    "surface_solar_radiation_downwards": ("J m**-2", 1e6, 1e5), "surface_thermal_radiation_downwards": ("J m**-2", 1e6, 5e4),
}
UPPER = {"geopotential": ("m**2 s**-2", 54000, 900), "temperature": ("K", 275, 2), "specific_humidity": ("kg kg**-1", 3e-3, 2e-4),
         "vertical_velocity": ("Pa s**-1", 0, 0.3), "u_component_of_wind": ("m s**-1", 8, 6), "v_component_of_wind": ("m s**-1", 2, 6)}
STATIC = {"geopotential_at_surface": ("m**2 s**-2", 4000, 900), "land_sea_mask": ("(0 - 1)", 0.5, 0.1), "soil_type": ("~", 3, 0.1)}
STATES = ["2t", "2d", "10u", "10v", "msl", "tp", "ssrd", "strd", "tcc", "z500", "t850", "r700", "w500"]


def make_store(step_hours=1, ascending=False, transposed=False):
    "A globe at 2°, with a few days that hold numbers in a longer axis of time, as ARCO's."
    rng = np.random.default_rng(11)
    times = HOURS[:: step_hours]
    lat, lon = np.arange(90, -91, -2.0), np.arange(0, 360, 2.0)
    draw = lambda spec, *shape: rng.normal(spec[1], spec[2], shape).astype("f4")
    ds = xr.Dataset(coords=dict(time=times, latitude=lat, longitude=lon, level=LEVELS))
    for name, spec in SURFACE.items():
        ds[name] = ("time", "latitude", "longitude"), draw(spec, len(times), len(lat), len(lon)), dict(units=spec[0], long_name=name)
    for name, spec in UPPER.items():
        ds[name] = ("time", "level", "latitude", "longitude"), draw(spec, len(times), 4, len(lat), len(lon)), dict(units=spec[0])
    for name, spec in STATIC.items():
        ds[name] = ("latitude", "longitude"), draw(spec, len(lat), len(lon)), dict(units=spec[0])
    if step_hours == 6: ds["total_precipitation_6hr"] = (ds["total_precipitation"] * 6).assign_attrs(units="m")
    if ascending: ds = ds.sortby("latitude")
    if transposed: ds = ds.transpose("time", "level", "longitude", "latitude")
    return ds.assign_attrs(valid_time_start="2024-05-31", valid_time_stop="2024-06-03")


class Counting(SimpleHTTPRequestHandler):
    "Serves files, notes what was asked for, and fails on demand."
    def do_GET(self):
        self.server.asked.append(self.path)
        if any(word in self.path for word in self.server.broken): return self.send_error(500)
        super().do_GET()

    def do_HEAD(self):
        self.server.asked.append("HEAD " + self.path)
        super().do_HEAD()

    def log_message(self, *args): pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the reader asks for many chunks at once


class Served:
    "A store on localhost."
    def __init__(self, server, truth, version): self.server, self.truth, self.version = server, truth, version

    @property
    def source(self): return f"era5:http://127.0.0.1:{self.server.server_address[1]}/store.zarr"

    def open(self, cache, **kw):
        "Open, and say which chunks were read for it."
        self.server.asked.clear()
        ds = open_weather(self.source, cache=cache, **kw)
        return ds, self.chunks()

    def chunks(self):
        "Data chunks asked for, by variable; axes and metadata left out."
        last = lambda path: path.rsplit("/", 1)[-1]
        found = [p.split("store.zarr/")[1] for p in self.server.asked if "store.zarr/" in p and not last(p).startswith((".", "zarr.json"))]
        return [p for p in found if p.split("/")[0] not in ("time", "latitude", "longitude", "level")]


def serve(folder, truth, version):
    chunks = {n: dict(chunks=tuple(1 if d == "time" else s for d, s in truth[n].sizes.items())) for n in truth.data_vars}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr 3 has no word on consolidated metadata yet
        truth.to_zarr(folder / "store.zarr", zarr_format=version, consolidated=True, encoding=chunks)
    server = Server(("127.0.0.1", 0), partial(Counting, directory=str(folder)))
    server.asked, server.broken = [], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return Served(server, truth, version)


@pytest.fixture(scope="module", params=[2, 3], ids=["zarr2", "zarr3"])
def store(request, tmp_path_factory):
    served = serve(tmp_path_factory.mktemp("arco"), make_store(), request.param)
    yield served
    served.server.shutdown()


def cut(truth, box, times):
    "The box by hand: rows from the north, columns from the west."
    north, south, west, east = box
    lat = truth.latitude.values
    lat = np.sort(lat[(lat <= north) & (lat >= south)])[::-1]
    lon = np.arange(np.ceil(west / 2) * 2, east + 1e-9, 2)
    return truth.sel(time=times, latitude=lat, longitude=lon % 360).assign_coords(longitude=lon)


DAY = pd.date_range("2024-06-01T00", "2024-06-01T23", freq="h")


def test_values_names_and_units(store, tmp_path):
    ds, _ = store.open(tmp_path, variables=[*STATES, "z_sfc", "lsm", "slt"], region=NORWAY_ISH, time=("2024-06-01", "2024-06-01"))
    want = cut(store.truth, NORWAY_ISH, DAY)
    assert list(ds.data_vars) == [*STATES, "z_sfc", "lsm", "slt"] and dict(ds.sizes) == dict(time=24, latitude=5, longitude=5)
    np.testing.assert_array_equal(ds.latitude, [66, 64, 62, 60, 58])
    for ours, theirs, factor in (("2t", "2m_temperature", 1), ("tp", "total_precipitation", 1000), ("tcc", "total_cloud_cover", 1),
                                 ("ssrd", "surface_solar_radiation_downwards", 1 / 3600), ("z_sfc", "geopotential_at_surface", 1)):
        np.testing.assert_allclose(ds[ours], want[theirs] * factor, rtol=1e-6)
    for ours, theirs, level in (("z500", "geopotential", 500), ("t850", "temperature", 850), ("w500", "vertical_velocity", 500)):
        np.testing.assert_allclose(ds[ours], want[theirs].sel(level=level), rtol=1e-6)
    assert ds["tp"].attrs["units"] == "kg m-2 h-1" and ds["ssrd"].attrs["units"] == "W m-2"
    assert ds["r700"].attrs["derived_from"] == "q700 t700" and 0 < float(ds["r700"].mean()) < 130
    assert ds.attrs["attribution"] == ERA5_CREDIT and ds.attrs["synthetic"] == 0 and len(ds.attrs["source_sha256"]) == 64


def test_only_what_is_asked_for_is_read(store, tmp_path):
    ds, chunks = store.open(tmp_path, variables=["2t", "r700"], region=ACROSS, time=("2024-06-01T22", "2024-06-02T03"))
    names = [c.split("/")[0] for c in chunks]
    assert sorted(set(names)) == ["2m_temperature", "specific_humidity", "temperature"]
    assert all(names.count(n) == 6 for n in set(names))  # one chunk an hour, six hours, nothing twice
    np.testing.assert_array_equal(ds.longitude, [-6, -4, -2, 0, 2, 4])
    np.testing.assert_allclose(ds["2t"], cut(store.truth, ACROSS, pd.date_range("2024-06-01T22", periods=6, freq="h"))["2m_temperature"])


def test_second_opening_asks_the_network_for_nothing(store, tmp_path):
    asked = dict(variables=["2t", "tp", "z500", "lsm"], region=NORWAY_ISH, time=("2024-06-01", "2024-06-02"))
    first, chunks = store.open(tmp_path, **asked)
    assert len(chunks) == 3 * 48 + 1
    second, _ = store.open(tmp_path, **asked)
    assert store.server.asked == []
    xr.testing.assert_identical(first, second)
    part, _ = store.open(tmp_path, variables=["2t"], region=NORWAY_ISH, time=HOURS[30:40:3])
    assert store.server.asked == [] and part.sizes["time"] == 4
    _, chunks = store.open(tmp_path, variables=["2t"], region=NORWAY_ISH, time=("2024-06-02T20", "2024-06-03T02"))
    assert len(chunks) == 3  # only the new day's hours
    _, chunks = store.open(tmp_path, variables=["2t"], region=ACROSS, time=("2024-06-01", "2024-06-01"))
    assert len(chunks) == 24  # another box is another piece


def test_more_hours_and_levels_complete_a_day(store, tmp_path):
    for variables, first, last, reads in ((["t850"], 0, 5, 6), (["t850"], 4, 9, 4), (["t500"], 2, 3, 10), (["t500", "t850"], 0, 9, 0)):
        time = f"2024-06-01T0{first}", f"2024-06-01T0{last}"
        ds, chunks = store.open(tmp_path, variables=variables, region=NORWAY_ISH, time=time)
        assert len(chunks) == reads
        want = cut(store.truth, NORWAY_ISH, ds.time.values)["temperature"]
        for name in variables: np.testing.assert_allclose(ds[name], want.sel(level=int(name[1:])))


def test_an_interrupted_reading_goes_on(store, tmp_path):
    asked = dict(variables=["2t", "msl"], region=NORWAY_ISH, time=("2024-06-01", "2024-06-02"))
    hour = 24 + 24 + 5  # 2 June, 05 UTC
    store.server.broken = {"mean_sea_level_pressure/" + (f"c/{hour}/0/0" if store.version == 3 else f"{hour}.0.0")}
    try:
        with pytest.raises(WeatherError, match="127.0.0.1.*network"): store.open(tmp_path, **asked)
    finally: store.server.broken = set()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name.startswith(".")]  # nothing half-written
    before = {p.parent.name + "/" + p.name for p in tmp_path.rglob("*.nc")}
    assert before == {"2m_temperature/2024-06-01.nc", "2m_temperature/2024-06-02.nc", "mean_sea_level_pressure/2024-06-01.nc"}
    ds, chunks = store.open(tmp_path, **asked)
    assert len(set(chunks)) == 24 and all(c.startswith("mean_sea_level_pressure") for c in chunks)  # set: late ones of the first call
    np.testing.assert_allclose(ds["msl"], cut(store.truth, NORWAY_ISH, ds.time.values)["mean_sea_level_pressure"])


def test_a_damaged_piece_is_fetched_again(store, tmp_path):
    asked = dict(variables=["2t"], region=NORWAY_ISH, time=("2024-06-01", "2024-06-02"))
    first, _ = store.open(tmp_path, **asked)
    piece = next(tmp_path.rglob("2m_temperature/2024-06-02.nc"))
    piece.write_bytes(piece.read_bytes()[:-300])
    second, chunks = store.open(tmp_path, **asked)
    assert len(chunks) == 24
    xr.testing.assert_identical(first, second)


def test_times_and_variables_that_the_store_has_not(store, tmp_path):
    right = dict(variables=["2t"], region=NORWAY_ISH, time=("2024-06-01", "2024-06-01"))
    for wrong, message in ((dict(time=("2024-06-03", "2024-06-09")), "covers 2024-05-31T00:00 … 2024-06-03T02:00"),
                           (dict(time=None), "say which times"), (dict(variables=["2t", "t925"]), "has no t925"),
                           (dict(variables=["2t", "rain"]), "Unknown variable 'rain'"),
                           (dict(time=pd.DatetimeIndex(["2024-06-01T00:30"])), "every 1 h"),
                           (dict(region=(66.0, 58.0, 12.0)), "north, south, west, east")):
        with pytest.raises(WeatherError, match=message): store.open(tmp_path, **right | wrong)
    assert not list(tmp_path.rglob("*.nc"))


def test_weatherbench_layout(tmp_path):
    "Six-hourly, latitude ascending, longitude before latitude, precipitation summed over six hours."
    served = serve(tmp_path, make_store(6, ascending=True, transposed=True), 2)
    try:
        time = "2024-06-01", "2024-06-02"
        ds, chunks = served.open(tmp_path / "cache", variables=["2t", "tp", "z500", "t", "u"], region=NORWAY_ISH, time=time)
        want = cut(served.truth, NORWAY_ISH, HOURS[::6][4:12]).transpose("time", "level", "latitude", "longitude")
        np.testing.assert_allclose(ds["2t"], want["2m_temperature"])
        np.testing.assert_allclose(ds["tp"], want["total_precipitation_6hr"] * 1000 / 6, rtol=1e-6)
        np.testing.assert_allclose(ds["t"], want["temperature"])
        assert ds["t"].dims == ("time", "level", "latitude", "longitude") and ds.attrs["step_hours"] == 6
        assert {c.split("/")[0] for c in chunks} == {"2m_temperature", "total_precipitation_6hr", "geopotential", "temperature",
                                                     "u_component_of_wind"}
        plain = open_weather(served.source.removeprefix("era5:"), variables=["2t"], region=NORWAY_ISH, time=time)
        np.testing.assert_array_equal(plain["2t"], ds["2t"])  # any Zarr store over HTTP, without cache
    finally: served.server.shutdown()


def test_no_network(tmp_path):
    with pytest.raises(WeatherError, match="Cannot read http://127.0.0.1:9.*check the address"):
        open_weather("era5:http://127.0.0.1:9/none.zarr", ["2t"], NORWAY_ISH, ("2024-06-01", "2024-06-01"), cache=tmp_path)
