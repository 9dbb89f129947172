"""Kinds of GRIB messages as centres write them: right, or refused in one sentence."""

import itertools
import warnings

import pyproj  # noqa: F401  before eccodes
import eccodes as ec
import numpy as np
import pytest
import xarray as xr

import microclimate as mc
from microclimate.errors import WeatherError
from microclimate.files import shared_data
from microclimate.weather.grib import grib_fields, read_grib

BOX = dict(
    Ni=4, Nj=3, latitudeOfFirstGridPointInDegrees=61, longitudeOfFirstGridPointInDegrees=9,
    latitudeOfLastGridPointInDegrees=60, longitudeOfLastGridPointInDegrees=10.5,
    iDirectionIncrementInDegrees=.5, jDirectionIncrementInDegrees=.5,
)
PRESSURE = dict(sample="regular_ll_pl_grib2", typeOfLevel="isobaricInhPa")
NCEP = dict(centre=7, tablesVersion=2, localTablesVersion=1, discipline=0)
OVER_TIME = dict(productDefinitionTemplateNumber=8, discipline=0)
RAIN = dict(OVER_TIME, parameterCategory=1, parameterNumber=52, typeOfStatisticalProcessing=1)
SUNSHINE = dict(NCEP, **OVER_TIME, parameterCategory=4, parameterNumber=192,
                typeOfStatisticalProcessing=0, typeOfFirstFixedSurface=1)
CLOUD = dict(NCEP, productDefinitionTemplateNumber=8, parameterCategory=6, parameterNumber=1,
             typeOfStatisticalProcessing=0, startStep=0, endStep=6)


def message(values=280.0, sample="regular_ll_sfc_grib2", grid=BOX, **keys):
    "The bytes of one message."
    handle = ec.codes_grib_new_from_samples(sample)
    for key, value in {**grid, "dataDate": 20240601, "dataTime": 0, **keys}.items():
        ec.codes_set(handle, key, value)
    points = grid.get("Ni", grid.get("Nx")) * grid.get("Nj", grid.get("Ny"))
    ec.codes_set_values(handle, np.broadcast_to(np.ravel(values), (points,)).astype(float))
    raw = ec.codes_get_message(handle)
    ec.codes_release(handle)
    return raw


@pytest.fixture
def grib(tmp_path):
    "Writes messages to a file."
    def write(*messages):
        (tmp_path / "kind.grib").write_bytes(b"".join(messages))
        return tmp_path / "kind.grib"
    return write


def rates(path, name="tp"):
    return mc.open_weather(path, [name])[name].values[:, 0, 0]


# --- what a field is -------------------------------------------------------

def test_wind_at_10_hpa_is_no_10_m_wind(grib):
    fields = (("u", 10, 55), ("v", 10, -3), ("u", 500, 20), ("v", 500, 1), ("r", 2, 1))
    path = grib(*(message(v, shortName=s, level=level, **PRESSURE) for s, level, v in fields))
    weather = mc.open_weather(path)
    assert not {"10u", "10v", "2r"} & set(weather.data_vars)
    np.testing.assert_allclose(weather["u"].sel(level=10), 55, atol=1e-3)
    assert [finding.name for finding in grib_fields(path)] == ["u10", "v10", "u500", "v500", "r2"]


def test_probabilities_percentiles_and_spreads_are_no_fields(grib):
    limit = dict(probabilityType=1, scaleFactorOfUpperLimit=0, scaledValueOfUpperLimit=1)
    temperature = dict(discipline=0, parameterCategory=0, parameterNumber=0, endStep=6,
                       typeOfFirstFixedSurface=103, scaleFactorOfFirstFixedSurface=0,
                       scaledValueOfFirstFixedSurface=2)
    path = grib(
        message(80, **RAIN | dict(productDefinitionTemplateNumber=9), **limit, endStep=6),
        message(80, productDefinitionTemplateNumber=5, **temperature, **limit),
        message(280, productDefinitionTemplateNumber=6, percentileValue=90, **temperature),
        message(2, productDefinitionTemplateNumber=2, derivedForecast=2, **temperature),
        message(2, typeOfGeneratingProcess=7, **temperature),
        message(285, **temperature | OVER_TIME | dict(typeOfStatisticalProcessing=2)),
    )
    assert [finding.reason for finding in grib_fields(path)] == [
        "a probability", "a probability", "a percentile", "derived from an ensemble",
        "an analysis error", "a maximum, where 2t takes instants"]
    with pytest.raises(WeatherError, match="no field that is known and asked for"):
        mc.open_weather(path)


def test_two_pressures_at_sea_level(grib):
    at_sea = dict(NCEP, parameterCategory=3, typeOfFirstFixedSurface=101)
    path = grib(message(101000, parameterNumber=1, **at_sea),
                message(101010, parameterNumber=192, **at_sea))
    np.testing.assert_allclose(mc.open_weather(path).msl, 101000)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_low_cloud_is_not_total_cloud(grib, order):
    low, total = (message(v, typeOfFirstFixedSurface=s, **CLOUD) for s, v in ((214, 30), (200, 70)))
    np.testing.assert_allclose(mc.open_weather(grib(*(low, total)[order])).tcc, 0.7, atol=2e-3)
    assert grib_fields(grib(low))[0].name is None


def test_cloud_as_an_instant_beside_its_mean(grib):
    instant = message(50, **NCEP, parameterCategory=6, parameterNumber=1, endStep=6,
                      typeOfFirstFixedSurface=10)
    path = grib(message(70, typeOfFirstFixedSurface=10, **CLOUD), instant)
    np.testing.assert_allclose(mc.open_weather(path).tcc, 0.5, atol=2e-3)
    assert grib_fields(path)[0].reason == "a mean, beside instants"


def test_model_levels_layers_and_other_heights(grib):
    wind = dict(discipline=0, parameterCategory=2, parameterNumber=2)
    layer = dict(typeOfFirstFixedSurface=108, typeOfSecondFixedSurface=108)
    path = grib(message(5, **wind, typeOfFirstFixedSurface=105, level=10),
                message(5, **wind, typeOfFirstFixedSurface=103, level=80),
                message(5, **wind, **layer))
    reasons = [finding.reason for finding in grib_fields(path)]
    assert [reason.split(",")[0] for reason in reasons] == [
        "at model level 10", "at 80 m", "at level type 108 0"]


def test_an_odd_message_beside(grib):
    odd = dict(productDefinitionTemplateNumber=8, discipline=0, parameterCategory=191,
               parameterNumber=192, typeOfStatisticalProcessing=193, startStep=0, endStep=3)
    path = grib(message(shortName="2t"), message(1, **odd))
    np.testing.assert_allclose(mc.open_weather(path, ["2t"])["2t"], 280, atol=1e-3)
    assert grib_fields(path)[1].reason.startswith("no field of this package")


# --- how it is packed ------------------------------------------------------

def sections(raw):
    "Number and bytes of each section of a GRIB 2 message."
    start, found = 16, []
    while raw[start:start + 4] != b"7777":
        size = int.from_bytes(raw[start:start + 4], "big")
        found.append((raw[start + 4], raw[start:start + size]))
        start += size
    return found


def test_two_fields_in_one_message(grib):
    u, v = message(7, shortName="10u"), message(-4, shortName="10v")
    body = u[16:-4] + b"".join(part for number, part in sections(v) if number >= 4)
    both = u[:8] + (16 + len(body) + 4).to_bytes(8, "big") + body + b"7777"
    weather = mc.open_weather(grib(both, message(shortName="2t")))
    for name, value in {"10u": 7, "10v": -4, "2t": 280}.items():
        np.testing.assert_allclose(weather[name], value, atol=1e-3)


PACKINGS = ("grid_simple", "grid_second_order", "grid_jpeg", "grid_ccsds", "grid_png", "grid_ieee")

@pytest.mark.parametrize("sample", ["regular_ll_sfc_grib1", "regular_ll_sfc_grib2"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_packings(grib, packing, sample):
    ramp = 280 + np.random.default_rng(3).gamma(2, 2, (40, 60))
    grid = BOX | dict(Ni=60, Nj=40, latitudeOfLastGridPointInDegrees=41.5,
                      longitudeOfLastGridPointInDegrees=38.5)
    try: raw = message(ramp, sample, grid, shortName="2t", packingType=packing)
    except ec.CodesInternalError: pytest.skip("ecCodes does not write it")
    np.testing.assert_allclose(mc.open_weather(grib(raw))["2t"][0], ramp, atol=1e-2)


def test_missing_points(grib):
    values = np.where(np.arange(12) == 5, 1e30, 280.0)
    path = grib(message(values, shortName="2t", bitmapPresent=1, missingValue=1e30))
    field = read_grib(path)[0]["2t"].values.ravel()
    assert np.isnan(field[5]) and np.isnan(field).sum() == 1


# --- grids -----------------------------------------------------------------

MODES = list(itertools.product((0, 1), repeat=4))

def scanned(field, west, north, by_column, alternate):
    "A field with y and x ascending, in the order of a scanning mode."
    field = field if north else field[::-1]
    field = field[:, ::-1] if west else field
    lines = (field.T if by_column else field).copy()
    if alternate: lines[1::2] = lines[1::2, ::-1]
    return lines.ravel()


def scanning(*mode):
    names = ("iScansNegatively", "jScansPositively", "jPointsAreConsecutive",
             "alternativeRowScanning")
    return dict(zip(names, mode))


def box(west, north, *others):
    "The grid of these tests in a scanning mode."
    first, last = (10.5, 9) if west else (9, 10.5)
    top, bottom = (60, 61) if north else (61, 60)
    ends = dict(
        longitudeOfFirstGridPointInDegrees=first, longitudeOfLastGridPointInDegrees=last,
        latitudeOfFirstGridPointInDegrees=top, latitudeOfLastGridPointInDegrees=bottom)
    return BOX | ends | scanning(west, north, *others)


@pytest.mark.parametrize("mode", MODES)
def test_scanning_modes_of_latitude_longitude(grib, mode):
    lat, lon = np.array([60, 60.5, 61]), np.array([9, 9.5, 10, 10.5])
    field = 250 + 10 * (lat[:, None] - 60) + (lon - 9)
    raw = message(scanned(field, *mode), grid=box(*mode), shortName="2t")
    weather = mc.open_weather(grib(raw))
    np.testing.assert_allclose(weather["2t"][0], field[::-1], atol=1e-3)
    np.testing.assert_allclose(weather.latitude, lat[::-1])


FIRST = dict(latitudeOfFirstGridPointInDegrees=50, longitudeOfFirstGridPointInDegrees=350)
LENGTHS = dict(DxInMetres=50000, DyInMetres=50000, LaDInDegrees=60)
PROJECTED = {
    "polar stereographic": (
        dict(gridType="polar_stereographic", orientationOfTheGridInDegrees=10, **LENGTHS),
        "+proj=stere +lat_ts=60 +lat_0=90 +lon_0=10 +R=6371229"),
    "Lambert": (
        dict(gridType="lambert", LoVInDegrees=10, Latin1InDegrees=60, Latin2InDegrees=60,
             **LENGTHS),
        "+proj=lcc +lat_1=60 +lat_2=60 +lat_0=60 +lon_0=10 +R=6371229"),
    "Lambert, equal area": (
        dict(gridType="lambert_azimuthal_equal_area", standardParallelInDegrees=52,
             centralLongitudeInDegrees=10, xDirectionGridLengthInMillimetres=50000000,
             yDirectionGridLengthInMillimetres=50000000),
        "+proj=laea +lat_0=52 +lon_0=10 +R=6371229"),
}

@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", PROJECTED)
def test_scanning_modes_of_projected_grids(grib, kind, mode):
    "By hand: the first point is the first value, and x and y go on from it by the flags."
    keys, proj = PROJECTED[kind]
    project = pyproj.Proj(proj)
    x, y = project(350, 50)
    x = x + np.sort(50e3 * np.arange(5) * (-1 if mode[0] else 1))
    y = y + np.sort(50e3 * np.arange(4) * (1 if mode[1] else -1))
    lon, lat = project(*np.meshgrid(x, y), inverse=True)
    field = 200 + lat
    grid = dict(Nx=5, Ny=4, shapeOfTheEarth=6) | FIRST | scanning(*mode)
    weather = mc.open_weather(grib(message(
        scanned(field, *mode), "GRIB2", keys | grid, shortName="2t")))
    order = slice(None, None, -1)  # from the north
    np.testing.assert_allclose(weather["latitude"], lat[order], atol=1e-5)
    np.testing.assert_allclose(weather["longitude"] % 360, lon[order] % 360, atol=1e-5)
    np.testing.assert_allclose(weather["2t"][0], field[order], atol=1e-2)
    np.testing.assert_allclose(np.diff(weather["x"]), 50e3, rtol=1e-6)


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode[3]])
def test_rotated_grids(grib, mode):
    "Points by pyproj's rotated pole; the model's winds are turned to east and north."
    west, north = mode[:2]
    x, y = np.array([-10, -9.5, -9, -8.5, -8]), np.array([.5, 1, 1.5, 2])
    crs = pyproj.CRS("+proj=ob_tran +o_proj=longlat +o_lat_p=40 +o_lon_p=0 +lon_0=10 "
                     "+R=6371229 +to_meter=0.0174532925199433")
    lon, lat = pyproj.Transformer.from_crs(crs, crs.source_crs, always_xy=True).transform(
        *np.meshgrid(x, y))
    corners = dict(
        latitudeOfFirstGridPointInDegrees=y[0 if north else -1],
        latitudeOfLastGridPointInDegrees=y[-1 if north else 0],
        longitudeOfFirstGridPointInDegrees=x[-1 if west else 0] % 360,
        longitudeOfLastGridPointInDegrees=x[0 if west else -1] % 360)
    grid = dict(gridType="rotated_ll", Ni=5, Nj=4, iDirectionIncrementInDegrees=.5,
                jDirectionIncrementInDegrees=.5, latitudeOfSouthernPoleInDegrees=-40,
                longitudeOfSouthernPoleInDegrees=10, angleOfRotation=0, shapeOfTheEarth=6)
    grid |= corners | scanning(*mode)
    fields = (("2t", 200 + lat), ("10u", 10 + 0 * lat), ("10v", 0 * lat))
    weather = mc.open_weather(grib(*(
        message(scanned(field, *mode), "GRIB2", grid, shortName=name, resolutionAndComponentFlags=8)
        for name, field in fields)))
    order = slice(None, None, -1)
    np.testing.assert_allclose(weather["latitude"], lat[order], atol=1e-4)
    np.testing.assert_allclose(weather["2t"][0], (200 + lat)[order], atol=1e-2)
    north_of_x = np.gradient(lat, axis=1) / np.hypot(
        np.gradient(lat, axis=1), np.gradient(lon, axis=1) * np.cos(np.radians(lat)))
    np.testing.assert_allclose(weather["10v"][0], 10 * north_of_x[order], atol=0.1)


@pytest.mark.parametrize("west", [0, 1])
@pytest.mark.parametrize("kind", PROJECTED)
def test_winds_along_the_grid_by_bit_5(grib, kind, west):
    "Flags tell the direction where a grid type has no key uvRelativeToGrid."
    keys, proj = PROJECTED[kind]
    grid = keys | dict(Nx=5, Ny=4, shapeOfTheEarth=6, jScansPositively=1) | FIRST
    grid["iScansNegatively"] = west
    for flags in (0, 8):
        path = grib(*(message(v, "GRIB2", grid, shortName=s, resolutionAndComponentFlags=flags)
                      for s, v in (("10u", 10), ("10v", 0))))
        weather = mc.open_weather(path)
        directions = {finding.direction for finding in grib_fields(path)}
        assert directions == {"the grid's axes" if flags else "east and north"}
        lon, lat = weather["longitude"].values, weather["latitude"].values
        angle = -np.radians(pyproj.Proj(proj).get_factors(lon, lat).meridian_convergence)
        if not flags: angle = 0 * angle
        np.testing.assert_allclose(weather["10u"][0], 10 * np.cos(angle), atol=0.02)
        np.testing.assert_allclose(weather["10v"][0], 10 * np.sin(angle), atol=0.05)


@pytest.mark.parametrize("sample", ["reduced_gg_pl_32_grib2", "sh_pl_grib2"])
def test_grids_without_rows_are_refused(tmp_path, sample):
    handle = ec.codes_grib_new_from_samples(sample)
    ec.codes_set(handle, "shortName", "t")
    (tmp_path / "kind.grib").write_bytes(ec.codes_get_message(handle))
    ec.codes_release(handle)
    with pytest.raises(WeatherError, match="grid of the type (reduced_gg|sh).*cdo"):
        mc.open_weather(tmp_path / "kind.grib")
    finding, = grib_fields(tmp_path / "kind.grib")
    assert "grid" in finding.reason


# --- times, sums and runs --------------------------------------------------

def test_far_dates_are_refused(grib):
    with pytest.raises(WeatherError, match="2300-01-01.*from 1678 to 2261"):
        mc.open_weather(grib(message(shortName="2t", dataDate=23000101)))


def test_sums_over_minutes(grib):
    minutes = dict(RAIN, indicatorOfUnitOfTimeRange=0, indicatorOfUnitForTimeRange=0, stepUnits="m")
    ends = ((15, 1), (30, 2), (45, 3), (60, 4))
    path = grib(*(message(v, **minutes, startStep=0, endStep=end) for end, v in ends))
    np.testing.assert_allclose(rates(path), 4, rtol=1e-3)


def test_the_shortest_window_serves(grib):
    windows = ((0, 1), (0, 2), (1, 2), (0, 3), (2, 3))
    path = grib(*(message(2 * (b - a), **RAIN, startStep=a, endStep=b) for a, b in windows))
    np.testing.assert_allclose(rates(path), 2, rtol=1e-3)
    left_out = [finding.field for finding in grib_fields(path) if finding.reason]
    assert len(left_out) == 2


def test_buckets_of_gfs(grib):
    "Sums of 3 and 6 hours in turn, and the same sum since the start written twice at first."
    windows = ((0, 3), (0, 3), (0, 6), (0, 6), (6, 9), (0, 9), (6, 12), (0, 12))
    path = grib(*(message(b - a, **RAIN, startStep=a, endStep=b) for a, b in windows))
    np.testing.assert_allclose(rates(path), 1, rtol=1e-3)


def test_means_of_radiation_that_begin_anew_every_six_hours(grib):
    "NCEP's means over 3 and 6 hours: 100, 200, 300, 100 W m⁻² in each 3 hours."
    means = ((0, 3, 100), (0, 6, 150), (6, 9, 300), (6, 12, 200))
    path = grib(*(message(v, **SUNSHINE, startStep=a, endStep=b) for a, b, v in means))
    np.testing.assert_allclose(rates(path, "ssrd"), [100, 200, 300, 100], rtol=1e-3)


def test_a_rate_as_a_mean_and_as_an_instant(grib):
    rate = dict(NCEP, parameterCategory=1, parameterNumber=7, typeOfFirstFixedSurface=1)
    mean = dict(rate, productDefinitionTemplateNumber=8, typeOfStatisticalProcessing=0)
    instant = message(9 / 3600, **rate, endStep=6)
    path = grib(*(message(2 / 3600, **mean, startStep=a, endStep=a + 3) for a in (0, 3)), instant)
    np.testing.assert_allclose(rates(path), 2, rtol=1e-3)
    assert grib_fields(path)[-1].reason == "an instant, where tp takes a sum or mean over time"


def test_messages_that_contradict(grib):
    path = grib(message(shortName="2t"), message(281, shortName="2t"))
    with pytest.raises(WeatherError, match="2t twice at 2024-06-01T00:00"): mc.open_weather(path)


def test_an_ensemble_is_refused(grib):
    path = grib(*(message(shortName="2t", productDefinitionTemplateNumber=1, perturbationNumber=n)
                  for n in (1, 2)))
    with pytest.raises(WeatherError, match="2 ensemble members"): mc.open_weather(path)


def ecmwf(values, step, time, mars_class, name="tp"):
    keys = dict(centre=98, setLocalDefinition=1, localDefinitionNumber=1, type="fc")
    return message(values, "regular_ll_sfc_grib1", **keys | {"class": mars_class}, stepRange=step,
                   shortName=name, dataTime=time)


def test_era5_sums_over_an_hour_and_gets_its_credit(grib):
    amounts = [1e-3, 4e-3, 2e-3]
    path = grib(*(ecmwf(v, k + 1, 600, "ea") for k, v in enumerate(amounts)))
    np.testing.assert_allclose(rates(path), [1, 4, 2], rtol=1e-3)
    assert "Copernicus" in mc.open_weather(path).attribution


@pytest.mark.parametrize("mars_class", ["l5", "od"])
def test_era5_land_and_forecasts_sum_since_the_start(grib, mars_class):
    path = grib(*(ecmwf(v, k + 1, 0, mars_class) for k, v in enumerate([1e-3, 3e-3, 7e-3])))
    np.testing.assert_allclose(rates(path), [1, 2, 4], rtol=1e-3)


# --- damage ----------------------------------------------------------------

def three(**keys): return [message(280 + k, shortName="2t", endStep=k, **keys) for k in (1, 2, 3)]


DAMAGES = {
    "a mark overwritten": lambda a, b, c: a + b"XXXX" + b[4:] + c,
    "an end overwritten": lambda a, b, c: a + b[:-4] + b"8888" + c,
    "a middle cut short": lambda a, b, c: a + b[:-30] + c,
    "an end cut short": lambda a, b, c: a + b + c[:-30],
    "ten bytes left": lambda a, b, c: a + b + c[:10],
    "three bytes left": lambda a, b, c: a + b + c[:3],
}

@pytest.mark.parametrize("sample", ["regular_ll_sfc_grib1", "regular_ll_sfc_grib2"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_message_is_told(grib, damage, sample):
    raw = DAMAGES[damage](*three(sample=sample))
    with pytest.raises(WeatherError, match="damaged after byte"): mc.open_weather(grib(raw))


FILLINGS = dict(headings=b"\r\r\n123\r\r\nHTXX98 ECMF 010000\r\r\n", zeros=bytes(120),
                records=b"\0\0\1\2\0\0\1\2")

@pytest.mark.parametrize("filling", FILLINGS)
def test_fillings_between_messages(grib, filling):
    path = grib(FILLINGS[filling].join(three()) + b"\r\r\n\3")
    assert mc.open_weather(path).sizes["time"] == 3


# --- a second opinion ------------------------------------------------------

def by_hand(path):
    "Every field of a file, message by message through ecCodes, keyed by what and where it is."
    found = {}
    with open(path, "rb") as file:
        while (handle := ec.codes_grib_new_from_file(file)) is not None:
            keys = ("indicatorOfParameter", "typeOfLevel", "level")
            key = tuple(ec.codes_get(handle, name) for name in keys)
            size = ec.codes_get(handle, "Nj"), ec.codes_get(handle, "Ni")
            lat, lon = (ec.codes_get_array(handle, f"{axis}tudes") for axis in ("lati", "longi"))
            values = ec.codes_get_values(handle).reshape(size)
            found[key] = values, lat.reshape(size), lon.reshape(size)
            ec.codes_release(handle)
    return found


def test_arome_field_by_field():
    "Each of our fields in the real file equals ecCodes' values and points."
    if not shared_data(): pytest.skip("no shared data folder")
    path = shared_data() / "arome_arctic_20180710_00+006.grib"
    names = {"2t": (11, "heightAboveGround", 2), "2q": (51, "heightAboveGround", 2),
             "10u": (33, "heightAboveGround", 10), "10v": (34, "heightAboveGround", 10),
             "100u": (33, "heightAboveGround", 100), "100v": (34, "heightAboveGround", 100),
             "skt": (11, "heightAboveGround", 0),
             "msl": (1, "heightAboveSea", 0), "sp": (1, "heightAboveGround", 0),
             "z_sfc": (6, "heightAboveGround", 0), "tp": (61, "heightAboveGround", 0),
             "tcc": (71, "heightAboveGround", 0)}
    numbers = dict(t=11, u=33, v=34, q=51, z=6)
    columns = {f"{name}{level}" for name in numbers for level in range(1, 1101)}
    theirs, compared = by_hand(path), 0
    for ds in read_grib(path, set(names) | columns):
        for name in set(ds.data_vars) - {"crs"}:
            levels = ds.level.values if "level" in ds[name].dims else [None]
            for level in levels:
                key = names.get(name) or (numbers[name], "isobaricInhPa", int(level))
                ours = ds[name] if level is None else ds[name].sel(level=level)
                values, lat, lon = theirs[key]
                np.testing.assert_array_equal(ours.squeeze(), values.astype("f4"))
                np.testing.assert_allclose(ds.latitude, lat, atol=2e-5)
                np.testing.assert_allclose(ds.longitude, lon, atol=2e-5)
                compared += 1
    assert compared == 92


def by_cfgrib(path, **keys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(path, engine="cfgrib", decode_timedelta=True,
                               backend_kwargs=dict(indexpath="", filter_by_keys=keys))


TEMPERATURES = {
    **{f"scanning mode {mode}": dict(grid=box(*mode), values=np.arange(280., 292))
       for mode in MODES if not mode[0] and not mode[2]},  # cfgrib reads the others wrongly
    "a bitmap": dict(values=np.where(np.arange(12) == 5, 9999, 280.0), bitmapPresent=1),
    "GRIB 1": dict(values=np.arange(280., 292), sample="regular_ll_sfc_grib1"),
    "a Lambert grid": dict(values=np.arange(280., 300), sample="GRIB2", grid=(
        dict(Nx=5, Ny=4, shapeOfTheEarth=6, jScansPositively=1) | FIRST | PROJECTED["Lambert"][0])),
}

@pytest.mark.parametrize("kind", TEMPERATURES)
def test_cfgrib_reads_the_same_temperatures(grib, kind):
    "Point by point, whatever the order of the points in either reading."
    keys = dict(TEMPERATURES[kind])
    path = grib(message(shortName="2t", **keys))
    ours, = read_grib(path)
    np.testing.assert_array_equal(points(ours["2t"].squeeze("time")),
                                  points(by_cfgrib(path)["t2m"]))


def points(field):
    "Latitude, longitude and value of each point, in the order of the points."
    lat, lon = xr.broadcast(field["latitude"], field["longitude"])
    columns = [np.round(lat, 3), np.round(lon % 360, 3), field]
    flat = [column.transpose(*field.dims).values.ravel() for column in columns]
    return np.array(sorted(zip(*flat)))


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode[3]])
def test_eccodes_gives_the_same_points(grib, mode):
    "ecCodes' own triples, which are right for these modes: cfgrib mirrors rows that run west."
    raw = message(np.arange(280., 292), grid=box(*mode), shortName="2t")
    ours, = read_grib(grib(raw))
    handle = ec.codes_new_from_message(raw)
    triples = ec.codes_get_array(handle, "latLonValues").reshape(-1, 3)
    ec.codes_release(handle)
    ours = points(ours["2t"].squeeze("time"))
    np.testing.assert_allclose(ours, np.array(sorted(map(tuple, triples))))
    theirs = points(by_cfgrib(grib(raw))["t2m"])
    if mode[0] and not mode[2]: assert np.abs(theirs - ours).max() == 3


def test_cfgrib_reads_the_same_columns_and_sums(grib):
    "Temperature and geopotential height of several levels and steps, and sums, by cfgrib."
    rng = np.random.default_rng(1)
    raws = [message(rng.normal(260, 5, 12), shortName="t", level=level, endStep=step, **PRESSURE)
            for level in (500, 850) for step in (1, 2, 3)]
    raws += [message(rng.gamma(1, 1, 12), **RAIN, startStep=0, endStep=step) for step in (1, 2, 3)]
    path = grib(*raws)
    ours = {name: ds[name] for ds in read_grib(path) for name in ds.data_vars}
    columns = by_cfgrib(path, typeOfLevel="isobaricInhPa")["t"]
    columns = columns.transpose("step", "isobaricInhPa", ...)
    np.testing.assert_array_equal(ours["t"].sel(level=columns.isobaricInhPa.values), columns)
    np.testing.assert_array_equal(ours["tp"], by_cfgrib(path, typeOfLevel="surface")["tp"])
