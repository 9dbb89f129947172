"""Grids as files have them: conventions of longitude and seams, axes in any order and unit, projections, areas, both regriddings."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.grid import Grid, cf_mapping, read_crs, regular_grid, to_degrees
from microclimate.provenance import open_saved, save_dataset
from microclimate.regrid import conservative_weights, regrid
from microclimate.scores.evaluate import score
from microclimate.scores.events import window_cells
from microclimate.scores.stations import at_stations, read_stations
from microclimate.weather.nature import sample
from microclimate.weather.open import open_weather
from microclimate.weather.place import attach_projection, cut_region, rotate_winds

CDO = shutil.which("cdo")
needs_cdo = pytest.mark.skipif(not CDO, reason="needs CDO: apt-get install cdo")
HOURS = pd.date_range("2024-06-01", periods=2, freq="h").values
ROTATED = dict(grid_mapping_name="rotated_latitude_longitude", grid_north_pole_latitude=39.25, grid_north_pole_longitude=-162.0)
MAPPINGS = dict(
    rotated=ROTATED,
    lambert=cf_mapping("+proj=lcc +lat_1=63 +lat_2=63 +lat_0=50 +lon_0=15 +R=6371000"),
    one_parallel=dict(grid_mapping_name="lambert_conformal_conic", standard_parallel=63.0, longitude_of_central_meridian=15.0,
                      latitude_of_projection_origin=50.0, earth_radius=6371000.0),
    polar=cf_mapping("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6371229"),
    laea=cf_mapping("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80"),
)
CORNERS = dict(rotated=(-6, 2), lambert=(0, 1.2e6), one_parallel=(0, 1.2e6), polar=(2e5, -3e6), laea=(-1e5, 8e5))  # x and y


def grid_on(name, rows=5, columns=6):
    "A small grid on one of the projections, cells of 0.5° or 50 km."
    step = 0.5 if name == "rotated" else 5e4
    x, y = CORNERS[name][0] + step * np.arange(columns), CORNERS[name][1] - step * np.arange(rows)
    lon, lat = to_degrees(read_crs(MAPPINGS[name]))(*np.meshgrid(x, y))
    return Grid(lat, lon, x, y, MAPPINGS[name])


def temperatures(lat, lon, **attrs):
    "A file of 2 m temperature on two hours that says where it is: latitude + longitude / 1000."
    values = np.add.outer(lat, np.mod(lon, 360) / 1000) + 200
    field = ("time", "latitude", "longitude"), np.broadcast_to(values, (2, *values.shape)).copy(), dict(units="K")
    return xr.Dataset({"t2m": field}, dict(time=HOURS, latitude=("latitude", lat, attrs), longitude=("longitude", lon, attrs)))


def opened(ds, folder, **options):
    path = folder / "weather.nc"
    ds.to_netcdf(path, engine="netcdf4")
    return open_weather(path, **options)


def refused(ds, folder, *words):
    with pytest.raises(WeatherError) as error: opened(ds, folder)
    message = str(error.value)
    assert "\n" not in message and "weather.nc" in message and all(word in message for word in words), message


# --- longitudes ----------------------------------------------------------------------------------

CONVENTIONS = {
    "0…359": np.arange(0.0, 360, 2), "−180…178": np.arange(-180.0, 180, 2), "falling": np.arange(358.0, -1, -2),
    "split at 180": np.r_[np.arange(180.0, 360, 2), np.arange(0.0, 180, 2)], "single": np.arange(0, 360, 2, dtype="f4"),
}
BOXES = {"Greenwich": (60, 52, -10, 10), "Greenwich, 0…360": (60, 52, 350, 370), "date line": (60, 52, 170, -170),
         "date line, 0…360": (60, 52, 170, 190), "west of it": (60, 52, -190, -170), "everywhere": (60, 52, -180, 180),
         "no seam": (60, 52, 20, 40)}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("box", BOXES)
def test_a_region_is_the_same_from_every_convention(convention, box, tmp_path):
    north, south, west, east = BOXES[box]
    ds = opened(temperatures(np.arange(70.0, 48, -2), CONVENTIONS[convention]), tmp_path, region=BOXES[box])
    width = (east - west) % 360 or 358
    assert ds.sizes["longitude"] == width // 2 + 1 and ds.sizes["latitude"] == 5
    lon = ds.longitude.values
    assert np.allclose(np.diff(lon), 2) and (box == "everywhere" or np.isclose((lon[0] - west) % 360, 0))
    np.testing.assert_allclose(ds["2t"][0], 200 + np.add.outer(ds.latitude.values, lon % 360 / 1000), atol=1e-4)
    Grid.from_dataset(ds)


def test_longitudes_in_single_precision_are_their_decimals(tmp_path):
    for step, n in ((0.4, 900), (0.1, 3600), (1 / 3, 1080)):
        ds = opened(temperatures(np.array([61.0, 60.5]), (np.arange(n) * step).astype("f4")), tmp_path)
        np.testing.assert_allclose(ds.longitude, np.arange(n) * step, atol=2e-5)
        assert (np.diff(ds.longitude) > 0).all()
    exact = opened(temperatures(np.array([60.4, 60.0], "f4"), (np.arange(900) * 0.4).astype("f4")), tmp_path)
    assert exact.longitude.values[[1, -1]].tolist() == [0.4, 359.6] and exact.latitude.values[0] == 60.4


def test_a_repeated_last_column(tmp_path):
    for lon in (np.arange(0, 361, 60.0), np.arange(-180, 181, 60.0)):
        twice = temperatures(np.array([61.0, 60.5]), lon)
        ds = opened(twice, tmp_path)
        assert ds.sizes["longitude"] == 6 and (np.diff(ds.longitude) > 0).all()
        twice["t2m"][1, 0, -1] += 1
        refused(twice, tmp_path, "two columns at one place", "t2m")


def test_the_globe_is_round():
    "Stations and regridding between the last column and the first; the nature run in both conventions."
    globe = regular_grid(80, -80, 0, 358, 2)
    ds = xr.Dataset({"msl": (globe.dims, 1e5 + 100 * np.cos(np.radians(globe.lon2d)))}, globe.coords())
    places = read_stations(pd.DataFrame(dict(id=[1, 2], lat=[60.0, 60], lon=[359.5, -0.5], altitude=[0.0, 0])))
    np.testing.assert_allclose(at_stations(ds, places)["msl"], 1e5 + 100 * np.cos(np.radians(0.5)), atol=0.05)
    here = regular_grid(60, 50, -5, 5, 1)
    for method in ("bilinear", "conservative"):
        np.testing.assert_allclose(regrid(ds, here, method)["msl"], 1e5 + 100 * np.cos(np.radians(here.lon2d)), atol=0.2)
    east, west = regular_grid(70, 60, 178, 186, 2), regular_grid(70, 60, -182, -174, 2)
    for at in ("2024-06-01T00", "2024-06-01T09"):
        a, b = (sample(grid, [at], variables=("2t", "msl", "ssrd")) for grid in (east, west))
        for name in ("2t", "msl", "ssrd"): np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-2)


# --- latitudes -----------------------------------------------------------------------------------

def test_what_are_no_degrees(tmp_path):
    lat, lon = np.array([61.0, 60.5, 60.0]), np.array([9.0, 9.5])
    refused(temperatures(np.radians(lat), np.radians(lon), units="radians"), tmp_path, "radians", "convert it")
    refused(temperatures(np.radians(lat), np.radians(lon)), tmp_path, "could be radians")
    refused(temperatures(lat * 1e5, lon * 1e5, units="m"), tmp_path, "'m'")
    refused(temperatures(lat * 1e5, lon * 1e5), tmp_path, "no degrees")
    refused(temperatures(np.array([61.0, np.nan, 60.0]), lon), tmp_path, "1 of 3 values of latitude are missing")
    refused(temperatures(np.array([61.0, 60.0, 60.0]), lon), tmp_path, "60 appears twice")
    refused(temperatures(lat, np.array([9.0, np.nan])), tmp_path, "1 of 2 values of longitude are missing")
    equator = temperatures(np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.5]), units="degrees")
    assert opened(equator, tmp_path).sizes["latitude"] == 3


def test_points_are_no_grid(tmp_path):
    at = dict(latitude=("station", [60.0, 61, 62]), longitude=("station", [9.0, 10, 11]))
    points = xr.Dataset({"t2m": (("time", "station"), np.full((2, 3), 280.0), dict(units="K"))}, dict(time=HOURS) | at)
    refused(points, tmp_path, "along", "station", "open_observations")


def test_rows_weigh_by_their_true_area():
    "Mercator: 3 K wrong north of 62° N, 1 K south of it. Gaussian rows: the mean of sin² is a third."
    y = np.linspace(*np.arctanh(np.sin(np.radians([70, 50]))), 40)
    lat, lon = np.degrees(np.arcsin(np.tanh(y))), np.linspace(0, 20, 40)
    truth = xr.Dataset({"2t": (("time", "latitude", "longitude"), np.full((2, 40, 40), 280.0), {"units": "K"})},
                       dict(time=HOURS, latitude=lat, longitude=lon))
    wrong = (truth + np.where(lat > 62, 3.0, 1.0)[:, None]).isel(time=[1]).rename(time="lead_time")
    wrong = wrong.assign_coords(lead_time=[HOURS[1] - HOURS[0]]).expand_dims(init_time=HOURS[:1])
    assert abs(float(score(wrong, truth)["2t"].sel(metric="rmse")[0]) - 1.888) < 2e-3
    sines, shares = np.polynomial.legendre.leggauss(96)
    gauss = Grid(np.degrees(np.arcsin(sines))[::-1], np.arange(0, 360, 2.0))
    np.testing.assert_allclose(gauss.area_weights.mean(1), shares[::-1] * 48, rtol=1e-2)
    assert np.isclose((gauss.area_weights * np.sin(np.radians(gauss.lat2d)) ** 2).mean(), 1 / 3, rtol=1e-4)


# --- axes and projections ------------------------------------------------------------------------

def on_map(name, order=("y", "x"), places=True, dims=("y", "x"), km=False):
    "A file of temperature and of wind along the axes of a grid, its dimensions in any order."
    grid = grid_on(name)
    along = dict(y=("y", grid.y), x=("x", grid.x))
    units = dict(units="degrees" if name == "rotated" else "km" if km else "m")
    scale = 1e-3 if km else 1
    whole = lambda values: (("time", "y", "x"), np.broadcast_to(values, (2, *grid.shape)).copy())
    wind = dict(units="m s-1", grid_mapping="crs", grid_relative=1)
    warm = (*whole(200 + grid.lat2d), dict(units="K", grid_mapping="crs"))
    fields = {"t2m": warm, "u10": (*whole(7.0), wind), "v10": (*whole(-3.0), wind)}
    coords = {d: (d, values * scale, units) for d, (d, values) in along.items()} | dict(time=HOURS)
    if places: coords |= dict(lat=(("y", "x"), grid.latitude), lon=(("y", "x"), grid.longitude))
    ds = xr.Dataset(fields, coords).assign(crs=((), 0, grid.crs)).transpose("time", *order)
    return grid, ds.rename(dict(zip(("y", "x"), dims)))


@pytest.mark.parametrize("name", MAPPINGS)
@pytest.mark.parametrize("places", [True, False])
def test_projected_files(name, places, tmp_path):
    "With latitude and longitude, or from x, y and the grid mapping alone."
    grid, ds = on_map(name, places=places)
    weather = opened(ds, tmp_path)
    found = Grid.from_dataset(weather)
    assert found.same(grid, 1e-6)
    np.testing.assert_allclose(weather["2t"][0], 200 + grid.lat2d, atol=1e-4)
    np.testing.assert_allclose(found.to_axes(grid.lat2d, grid.lon2d)[0], np.broadcast_to(grid.y[:, None], grid.shape), atol=1e-3)


def test_kilometres_and_other_units(tmp_path):
    grid, ds = on_map("lambert", places=False, km=True)
    assert Grid.from_dataset(opened(ds, tmp_path)).same(grid, 1e-6)
    ds["x"].attrs["units"] = "radian"
    refused(ds, tmp_path, "axis x", "'radian'")


@pytest.mark.parametrize("radius", [6371229.0, 6371000.0, 6370000.0])
def test_an_earth_that_the_mapping_does_not_name(radius, tmp_path):
    "Cells of 2.5 km lie elsewhere on another Earth: the file's own places tell which it was."
    mapping = {key: value for key, value in MAPPINGS["lambert"].items() if "axis" not in key and "flattening" not in key}
    x, y = np.arange(6) * 2500.0, 1.2e6 - np.arange(5) * 2500.0
    lon, lat = to_degrees(read_crs(mapping | dict(earth_radius=radius)))(*np.meshgrid(x, y))
    fields = {"t2m": (("time", "y", "x"), np.full((2, 5, 6), 280.0), dict(units="K", grid_mapping="crs")), "crs": ((), 0, mapping)}
    axes = {n: (n, axis, dict(units="m")) for n, axis in (("x", x), ("y", y))}
    ds = xr.Dataset(fields, axes | dict(time=HOURS, lat=(("y", "x"), lat), lon=(("y", "x"), lon)))
    found = Grid.from_dataset(opened(ds, tmp_path))
    assert found.crs["semi_major_axis"] == radius and np.array_equal(found.x, x)


@pytest.mark.parametrize("dims", [("y", "x"), ("rlat", "rlon"), ("south_north", "west_east")])
@pytest.mark.parametrize("order", [("y", "x"), ("x", "y")])
def test_dimensions_in_either_order(order, dims, tmp_path):
    "The places, the temperature and the wind, which follows x, not the first dimension."
    grid, ds = on_map("lambert", order, dims=dims)
    weather = opened(ds, tmp_path)
    assert Grid.from_dataset(weather).same(grid, 1e-6)
    np.testing.assert_allclose(weather["2t"][0], 200 + grid.lat2d, atol=1e-4)
    check_wind(weather, grid)
    backwards = opened(ds.isel({dims[1]: slice(None, None, -1)}), tmp_path)
    check_wind(backwards, grid)


def check_wind(weather, grid):
    "A wind of (7, −3) along x and y, against where air comes to in 100 s on the map."
    x, y = np.meshgrid(grid.x, grid.y)
    there = to_degrees(read_crs(grid.crs))(x + 700, y - 300)
    bearing = np.radians(pyproj.Geod(a=6371000, b=6371000).inv(grid.lon2d, grid.lat2d, *there)[0])
    np.testing.assert_allclose(weather["10u"][0], np.hypot(7, 3) * np.sin(bearing), atol=2e-3)
    np.testing.assert_allclose(weather["10v"][0], np.hypot(7, 3) * np.cos(bearing), atol=2e-3)


def test_regular_grids_along_other_dimensions(tmp_path):
    lat, lon = np.array([61.0, 60.5, 60.0]), np.array([9.0, 9.5, 10, 10.5])
    plain = temperatures(lat, lon)
    other = plain.rename_dims(latitude="y", longitude="x").reset_index(["latitude", "longitude"]).transpose("time", "x", "y")
    np.testing.assert_array_equal(opened(other, tmp_path)["2t"], opened(plain, tmp_path)["2t"])


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_wrf_says_its_projection_in_attributes(kind):
    "x and y come out evenly spaced, and winds along the grid are turned."
    facts = {1: "+proj=lcc +lat_1=60 +lat_2=30 +lat_0=61 +lon_0=10 +R=6370000", 2: "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370000",
             3: "+proj=merc +lat_ts=60 +lon_0=10 +R=6370000"}
    crs = pyproj.CRS(facts[kind])
    x0, y0 = pyproj.Proj(crs)(14.0, 63.0)
    x, y = x0 + 9e3 * np.arange(6), y0 + 9e3 * np.arange(5)
    lon, lat = pyproj.Proj(crs)(*np.meshgrid(x, y), inverse=True)
    dims = ("Time", "south_north", "west_east")
    twice = lambda values: (dims, np.stack([values, values]), dict(units="degree"))
    wind = lambda value: (dims, np.full((2, 5, 6), value), dict(units="m s-1", grid_relative=1))
    attrs = dict(MAP_PROJ=kind, TRUELAT1=60.0, TRUELAT2=30.0, STAND_LON=10.0, MOAD_CEN_LAT=61.0, CEN_LON=14.0)
    run = xr.Dataset({"10u": wind(7.0), "10v": wind(0.0)}, dict(XLAT=twice(lat), XLONG=twice(lon)), attrs)
    placed = cut_region(run, "wrfout_d01")
    turned = rotate_winds(attach_projection(placed, placed))
    np.testing.assert_allclose(np.diff(turned.x), 9e3, rtol=1e-6)
    np.testing.assert_allclose(np.diff(turned.y), 9e3, rtol=1e-6)
    convergence = -np.radians(pyproj.Proj(crs).get_factors(lon, lat).meridian_convergence)
    np.testing.assert_allclose(turned["10u"][0], 7 * np.cos(convergence), atol=1e-3)
    np.testing.assert_allclose(turned["10v"][0], 7 * np.sin(convergence), atol=1e-3)


def test_winds_around_the_pole():
    "A uniform wind over the pole, on polar stereographic columns: from everywhere it blows the same way in space."
    crs = pyproj.CRS("+proj=stere +lat_0=90 +lat_ts=90 +lon_0=0 +R=6371000")
    x, y = np.meshgrid(np.arange(-4.5, 5) * 2e4, np.arange(4.5, -5, -1) * 2e4)
    lon, lat = pyproj.Proj(crs)(x, y, inverse=True)
    wind = lambda value: (("y", "x"), np.full(x.shape, value), dict(grid_relative=1))
    ds = xr.Dataset({"10u": wind(7.0), "10v": wind(0.0)}, dict(latitude=(("y", "x"), lat), longitude=(("y", "x"), lon)))
    turned, o = rotate_winds(ds), np.radians(lon)
    np.testing.assert_allclose(turned["10u"], 7 * np.cos(o), atol=2e-3)
    np.testing.assert_allclose(turned["10v"], -7 * np.sin(o), atol=2e-3)


def test_a_wrong_projection_is_left_out_with_a_word(tmp_path):
    grid, ds = on_map("lambert")
    ds["crs"].attrs |= dict(longitude_of_central_meridian=40.0)
    with pytest.warns(UserWarning, match="projection of .* is left out"): weather = opened(ds, tmp_path)
    assert "crs" not in weather
    np.testing.assert_allclose(np.diff(weather.x), 5e4, rtol=0.05)
    with pytest.raises(WeatherError, match="does not say which projection"): regrid(weather, regular_grid(61, 60.5, 15, 16, 0.5))


# --- regridding ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MAPPINGS)
def test_bilinear_is_exact_for_a_plane_on_the_map(name):
    grid = grid_on(name)
    step = grid.x[1] - grid.x[0]
    plane = lambda x, y: 280 + (x - grid.x[0]) / step + 2 * (grid.y[0] - y) / step
    ds = xr.Dataset({"2t": (grid.dims, plane(*np.meshgrid(grid.x, grid.y)))}, grid.coords()).assign(crs=((), 0, grid.crs))
    lat, lon = grid.latitude[2, 2], grid.longitude[2, 2]
    here = regular_grid(lat + 0.2, lat - 0.2, lon - 0.2, lon + 0.2, 0.1)
    crs = read_crs(grid.crs)
    x, y = pyproj.Transformer.from_crs(crs.source_crs, crs, always_xy=True).transform(here.lon2d, here.lat2d)
    np.testing.assert_allclose(regrid(ds, here)["2t"], plane(x, y), atol=1e-4)
    with pytest.raises(WeatherError, match="beyond the data"): regrid(ds, regular_grid(lat + 9, lat, lon, lon + 1, 0.5))


def rain_on(grid, seed=1):
    rain = np.random.default_rng(seed).gamma(0.3, 2, (3, *grid.shape)).astype("f8")
    ds = xr.Dataset({"tp": (("time", *grid.dims), rain, dict(units="kg m-2 h-1"))}, grid.coords())
    return ds if grid.regular else ds.assign(crs=((), 0, grid.crs))


def test_conservative_keeps_the_mean():
    "To rounding, on the same area: from fine to coarse, to fine, and to cells that share no edge."
    fine, coarse = regular_grid(63.875, 56.125, 4.125, 11.875, 0.25), regular_grid(63.5, 56.5, 4.5, 11.5, 1.0)
    odd = Grid(60 + 8 * (np.arange(7, 0, -1) - 4) / 7, 4 + 8 * (np.arange(1, 12) - 0.5) / 11)
    for source, target in ((fine, coarse), (coarse, fine), (fine, odd), (odd, coarse)):
        before = (rain_on(source)["tp"].values * source.area_weights).mean((1, 2))
        shares = conservative_weights(source, target)
        moved = np.stack([shares @ one.ravel() for one in rain_on(source)["tp"].values])
        after = (moved * target.area_weights.ravel()).mean(1)
        np.testing.assert_allclose(after, before, rtol=1e-12)
        moved = regrid(rain_on(source), target, "conservative")
        np.testing.assert_allclose((moved["tp"].values * target.area_weights).mean((1, 2)), before, rtol=1e-6)
    assert moved["tp"].attrs["units"] == "kg m-2 h-1"


def test_conservative_from_a_map_keeps_what_lies_inside():
    "Cells of a Lambert map, each in its share; a constant stays one; both orders of lazy and not are equal."
    grid = grid_on("lambert", 40, 50)
    lat, lon = grid.latitude[20, 25], grid.longitude[20, 25]
    here = regular_grid(lat + 2, lat - 2, lon - 4, lon + 4, 1.0)
    shares = conservative_weights(grid, here)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    rain = rain_on(grid)
    np.testing.assert_array_equal(regrid(rain.chunk(time=1), here, "conservative")["tp"], regrid(rain, here, "conservative")["tp"])
    # back on the map: a cell in the middle has the mean of its four shares
    area = grid.area_weights.ravel()
    inside = np.asarray((shares > 0).sum(0)).ravel() > 0
    counts = np.asarray(here.area_weights.ravel() @ shares.toarray()).ravel()
    whole = inside & (counts > 0.999 * np.median(counts[inside]) * area / np.median(area[inside]))
    np.testing.assert_allclose(counts[whole] / area[whole], np.median(counts[whole] / area[whole]), rtol=1e-2)


def with_corners(ds, grid):
    "What CDO needs of a projected grid: degrees, and the corners of its cells, here from the projection itself."
    half = (grid.x[1] - grid.x[0]) / 2
    x, y = np.meshgrid(grid.x, grid.y)
    ring = [to_degrees(read_crs(grid.crs))(x + i * half, y + j * half) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    bounds = {f"{n}_bnds": (("y", "x", "corner"), np.stack([corner[k] for corner in ring], -1)) for k, n in enumerate(("lon", "lat"))}
    about = dict(lon=dict(standard_name="longitude", units="degrees_east"), lat=dict(standard_name="latitude", units="degrees_north"))
    values = dict(lon=grid.lon2d, lat=grid.lat2d)
    places = {n: (("y", "x"), values[n], about[n] | dict(bounds=f"{n}_bnds")) for n in values}
    bare = xr.Dataset({"tp": (("time", "y", "x"), ds["tp"].values)}, dict(time=ds.time) | places).assign(bounds)
    bare["tp"].encoding["coordinates"] = "lon lat"
    return bare


@needs_cdo
@pytest.mark.parametrize("name", ["regular", "lambert", "rotated"])
def test_conservative_equals_cdo(name, tmp_path):
    "First-order conservative remapping by CDO."
    source = regular_grid(66, 54, 0, 20, 0.5) if name == "regular" else grid_on(name, 30, 30)
    middle = [float(np.mean(axis)) for axis in (source.lat2d, source.lon2d)]
    target = regular_grid(round(middle[0]) + 2, round(middle[0]) - 2, round(middle[1]) - 2, round(middle[1]) + 2, 1.0)
    hours = pd.date_range("2024-06-01", periods=3, freq="h")
    for grid, file in ((source, "rain.nc"), (target, "to.nc")):
        ds = rain_on(grid).assign_coords(time=hours)
        if grid.regular: save_dataset(ds, tmp_path / file, {})
        else: with_corners(ds, grid).to_netcdf(tmp_path / file)
    command = [CDO, "-s", f"remapcon,{tmp_path}/to.nc", tmp_path / "rain.nc", tmp_path / "moved.nc"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "moved.nc", engine="netcdf4") as theirs: theirs = theirs["tp"].values
    ours = regrid(rain_on(source), target, "conservative")["tp"].values
    assert np.abs(ours - theirs).max() < 0.01 * theirs.max()
    assert np.abs(ours - theirs).mean() < 0.002 * theirs.mean()


def test_missing_rain_is_missing_where_it_would_count():
    fine, coarse = regular_grid(61.875, 60.125, 4.125, 7.875, 0.25), regular_grid(61.5, 60.5, 4.5, 7.5, 1.0)
    rain = rain_on(fine)
    rain["tp"][:, 0, 0] = np.nan
    found = np.isnan(regrid(rain, coarse, "conservative")["tp"].values)
    assert found[:, 0, 0].all() and found.sum() == 3


# --- what is written -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", MAPPINGS)
def test_projected_files_come_back(name, tmp_path):
    "Rotated axes in degrees, the others in metres; the same grid, projection and values."
    weather = open_weather("nature", ["2t", "10u", "10v"], region=grid_on(name), time=("2024-06-01", "2024-06-01T03"))
    save_dataset(weather, tmp_path / "written.nc", {})
    with xr.open_dataset(tmp_path / "written.nc", engine="netcdf4") as ds:
        rotated = name == "rotated"
        assert ds.x.attrs["units"] == ("degrees" if rotated else "m")
        assert ds.x.attrs["standard_name"] == ("grid_longitude" if rotated else "projection_x_coordinate")
        assert not [n for n in ds.coords if "_FillValue" in ds[n].encoding]
    back = open_weather(tmp_path / "written.nc")
    assert Grid.from_dataset(back).same(grid_on(name), 1e-9)
    for field in ("2t", "10u", "10v"): np.testing.assert_array_equal(back[field], weather[field])
    with open_saved(tmp_path / "written.nc") as again: xr.testing.assert_equal(again.load(), weather)


def test_stations_keep_the_attributes_of_temperature():
    grid = regular_grid(61, 60, 9, 11, 0.5)
    weather = sample(grid, ["2024-06-01T12"], variables=("2t",))
    weather["z_sfc"].attrs |= dict(standard_name="surface_geopotential", note="of the ground")
    places = read_stations(pd.DataFrame(dict(id=[1], lat=[60.4], lon=[9.6], altitude=[500.0])))
    attrs = at_stations(weather, places)["2t"].attrs
    assert attrs.items() >= weather["2t"].attrs.items() and "note" not in attrs and "lapse_rate" in attrs



def test_a_neighbourhood_that_does_not_fit_says_which_does():
    "`run_evaluate` asks before it makes a forecast."
    grid = regular_grid(60.5, 60, 9, 10, 0.25)  # about 60 km
    with pytest.raises(WeatherError, match="at most 55 km") as error: window_cells(grid, 100)
    assert "3×5" in str(error.value) and max(window_cells(grid, 27)) <= 5
