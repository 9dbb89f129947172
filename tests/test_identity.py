"""What a field is, by what its file says: standard names, levels, statistics, units."""

import warnings

import numpy as np
import pytest
import xarray as xr

from microclimate import WeatherError, open_weather
from microclimate.weather.identify import conversion, identify_fields, linear
from microclimate.weather.inspect import main

TIME = np.arange("2024-06-01", "2024-06-01T03", dtype="M8[h]").astype("M8[ns]")
AXES = dict(time=TIME, latitude=[61.0, 60.5, 60.0], longitude=[9.0, 9.5, 10.0, 10.5])
FLAT = ("time", "latitude", "longitude")


def field(value=280.0, units="K", **attrs):
    return FLAT, np.full((3, 3, 4), value), dict(units=units, **attrs)


def opened(folder, fields, coords=(), attrs=None, **keywords):
    "What `open_weather` makes of a file, or the sentence of its refusal."
    path = folder / "file.nc"
    xr.Dataset(fields, AXES | dict(coords), attrs).to_netcdf(path)
    try:
        return open_weather(path, **keywords)
    except WeatherError as error:
        return str(error)


def height(value):
    return dict(height=((), value, dict(units="m", standard_name="height")))


def test_a_height_decides_with_the_standard_name(tmp_path):
    air = field(standard_name="air_temperature")
    assert list(opened(tmp_path, dict(air=air), height(2.0)).data_vars) == ["2t"]
    assert list(opened(tmp_path, dict(air=air), height(1.5)).data_vars) == ["2t"]
    assert "80 m" in opened(tmp_path, dict(air=air), height(80.0))
    assert "80 m" in opened(tmp_path, dict(tas=air), height(80.0))
    assert "no coordinate" in opened(tmp_path, dict(air=air))


@pytest.mark.parametrize("attrs", [
    dict(long_name="model_level_number", units="1"), dict(standard_name="model_level_number"),
    dict(standard_name="air_potential_temperature", units="K"), dict(units="K"),
    dict(units="m", positive="up"), dict(standard_name="height", long_name="generalized_height"), dict(units="m", positive="down"), {},
    dict(standard_name="atmosphere_hybrid_sigma_pressure_coordinate"),
])  # fmt: skip
def test_other_levels_are_no_pressures(tmp_path, attrs):
    values = np.full((3, 3, 3, 4), 280.0)
    column = ("time", "level", "latitude", "longitude"), values, dict(units="K")
    level = dict(level=("level", np.array([50, 100, 137]), attrs))
    assert isinstance(opened(tmp_path, dict(t=column), level), str)


@pytest.mark.parametrize("units, values", [("Pa", [5e4, 8.5e4]), ("millibars", [500, 850]), (None, [500, 850])])
def test_pressures_in_any_unit(tmp_path, units, values):
    column = ("time", "lev", "latitude", "longitude"), np.full((3, 2, 3, 4), 270.0), dict(units="K")
    lev = dict(lev=("lev", values, {} if units is None else dict(units=units)))
    ta = opened(tmp_path, dict(T=column), lev)
    assert ta["t"].level.values.tolist() == [500, 850]


@pytest.mark.parametrize("attrs", [
    dict(cell_methods="time: maximum"), dict(cell_methods="time: minimum (interval: 1 hour)"),
    dict(cell_methods="area: mean time: mean"), dict(cell_methods="realization: standard_deviation"),
    dict(standard_name="air_temperature standard_error"), dict(GRIB_dataType="es"),
    dict(GRIB_stepType="max"), dict(standard_name="surface_temperature"),
])  # fmt: skip
def test_statistics_are_no_states(tmp_path, attrs):
    assert "2t" not in list(opened(tmp_path, dict(t2m=field(**attrs))))


def test_a_percentile_is_no_forecast(tmp_path):
    percentile = dict(percentile=((), 90.0, dict(units="%")))
    assert "percentile" in opened(tmp_path, dict(t2m=field()), percentile)


def test_what_is_asked_for_and_left_out_is_explained(tmp_path):
    fields = dict(t2m=field(cell_methods="time: maximum"), msl=field(1e5, "Pa"))
    assert "t2m, which is left out: its maximum" in opened(tmp_path, fields, variables=["2t", "msl"])
    assert "has no sp" in opened(tmp_path, fields, variables=["sp", "msl"])


def test_names_are_case_exact(tmp_path):
    assert "2t" in opened(tmp_path, dict(T2M=field()))
    assert isinstance(opened(tmp_path, dict(T2m=field())), str)


def test_two_names_of_one_variable(tmp_path):
    assert "2t" in opened(tmp_path, dict(t2m=field(), tas=field(6.85, "degC")))
    sentence = opened(tmp_path, dict(t2m=field(), tas=field(281.0)))
    assert "t2m" in sentence and "tas" in sentence


def test_shares_under_per_cent(tmp_path):
    assert "fractions" in opened(tmp_path, dict(tcc=field(0.7, "%")))
    assert "fractions" in opened(tmp_path, dict(hurs=field(0.7, "%", standard_name="relative_humidity")))
    assert "fractions" in opened(tmp_path, dict(tcc=field(0.7, "%")), lazy=True)
    assert float(opened(tmp_path, dict(tcc=field(70.0, "%")))["tcc"].max()) == pytest.approx(0.7)
    assert float(opened(tmp_path, dict(tcc=field(0.0, "%")))["tcc"].max()) == 0


def test_a_word_is_no_credit(tmp_path):
    words = dict(institution="a climate model", driving_model_id="ECMWF-ERAINT", title="WRF by ERA5")
    weather = opened(tmp_path, dict(t2m=field()), attrs=words)
    assert "Copernicus" not in weather.attrs["attribution"]
    assert "Copernicus" in opened(tmp_path, dict(t2m=field()), attrs=dict(title="ERA5")).attribution


def test_heights_that_merging_gave_to_every_field():
    "xarray keeps the first field's scalar coordinate for all of them."
    merged = xr.Dataset(dict(t2m=field(), u10=field(5.0, "m s-1")), AXES | height(2.0))
    names = {finding.field: finding.name for finding, _ in identify_fields(merged)}
    assert names == dict(t2m="2t", u10="10u")


@pytest.mark.parametrize("heights, names", [([2.0, 80.0], ["2t"]), ([10.0], [])])
def test_one_of_several_heights(heights, names):
    dims = "time", "height", "latitude", "longitude"
    air = dims, np.zeros((3, len(heights), 3, 4)), dict(units="K", standard_name="air_temperature")
    above = dict(height=("height", heights, dict(units="m")))
    [(_, parts)] = identify_fields(xr.Dataset(dict(ta=air), AXES | above))
    assert list(parts) == names


SPELLINGS = {  # ours: what pint, MetPy, earthkit-data, CF and ecCodes write, with what they mean
    "tp": {"kilogram / meter ** 2": 1, "kg m**-2": 1, "millimeter": 1, "meter": 1000, "kg/m^2": 1,
           "kilogram / meter ** 2 / second": 3600, "mm/day": 1 / 24, "mm d-1": 1 / 24, "inch": 25.4,
           "m of water equivalent": 1000, "kg m-2 day-1": 1 / 24, "kg m⁻² s⁻¹": 3600},
    "10u": {"meter / second": 1, "m s**-1": 1, "meters per second": 1, "knot": 1852 / 3600,
            "kts": 1852 / 3600, "kt": 1852 / 3600, "km/h": 1 / 3.6, "mph": 0.44704, "ms-1": 1},
    "2t": {"kelvin": 1, "degree_Celsius": 1, "degC": 1, "degK": 1, "degrees_C": 1, "K": 1, "°C": 1,
           "degF": 5 / 9, "C": 1, "degrees celsius": 1},
    "msl": {"pascal": 1, "Pascal": 1, "hectopascal": 100, "hPa": 100, "mb": 100, "millibars": 100,
            "HPA": 100},
    "z500": {"meter ** 2 / second ** 2": 1, "m**2 s**-2": 1, "J/kg": 1, "gpm": 9.80665,
             "gpdm": 98.0665, "dam": 98.0665, "meter": 9.80665},
    "tcc": {"(0 - 1)": 1, "percent": 0.01, "%": 0.01, "octas": 1 / 8, "dimensionless": 1, "": None,
            "degrees": None},
    "ssrd": {"joule / meter ** 2": 1, "J m**-2": 1, "W h m-2": 3600, "Wh m-2": 3600, "W s/m^2": 1,
             "watt / meter ** 2": 1, "kJ m-2": 1000},
    "w500": {"pascal / second": 1, "Pa s**-1": 1, "hPa/h": 1 / 36, "m s-1": None},
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_units(name):
    for units, factor in SPELLINGS[name].items():
        if factor is None:
            with pytest.raises(WeatherError):
                conversion(name, units)
        else:
            assert conversion(name, units)[0] == pytest.approx(factor, rel=1e-9), units


@pytest.mark.parametrize("units, target", [
    ("kilogram / meter ** 2 / second", "kg/(m**2*hour)"), ("degree_Celsius", "kelvin"),
    ("degree_Fahrenheit", "kelvin"), ("knot", "m/s"), ("hectopascal / hour", "Pa/s"),
    ("gram / kilogram", "dimensionless"), ("kilometer / hour", "m/s"), ("watt_hour / m**2", "J/m**2"),
])  # fmt: skip
def test_pint_agrees(units, target):
    pint = pytest.importorskip("pint")
    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    theirs = registry.Quantity(3.0, units).to(target).magnitude
    target = {"kg/(m**2*hour)": "kg m-2 h-1", "dimensionless": "1"}.get(target, target)
    ours = linear(units.replace("watt_hour", "W h"), target)
    assert 3.0 * ours[0] + ours[1] == pytest.approx(theirs, rel=1e-9)


def test_what_is_left_out_is_told_once(tmp_path):
    fields = dict(t2m=field(), tasmax=field(cell_methods="time: maximum", standard_name="air_temperature"))
    with pytest.warns(UserWarning, match=r"1 field\(s\) of .*file.nc are left out \(tasmax\)"):
        weather = opened(tmp_path, fields)
    assert weather.attrs["left_out"].startswith("tasmax (its maximum over time")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = opened(tmp_path, fields, variables=["2t"])
        weather[["2t"]].to_netcdf(tmp_path / "own.nc")
        assert list(open_weather(tmp_path / "own.nc").data_vars) == ["2t"]
        open_weather("nature", region=(62, 60, 4, 8))
    assert "left_out" not in asked.attrs


def test_the_command(tmp_path, capsys):
    path = tmp_path / "file.nc"
    xr.Dataset(dict(t2m=field(), odd=field("s")), AXES).to_netcdf(path)
    main([str(path)])
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == "t2m 2t K 2 m instant the name t2m".split()
    assert second.split()[:2] == ["odd", "–"] and second.endswith("not a variable of this package")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.nc")])
    assert capsys.readouterr().err.startswith("inspect_weather: There is no file")
