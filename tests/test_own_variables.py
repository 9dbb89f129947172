"""A variable of one's own goes all the way: opened, trained, scored, drawn, saved, exported, and forecast without its row."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import microclimate as mc
from microclimate import variables
from microclimate.batch import Normalizer, channels_of, limits_of
from microclimate.delivery.export import export_facts, export_model
from microclimate.delivery.payload import decimals_for
from microclimate.device.runner import forecast_onnx
from microclimate.figures.maps import look_of
from microclimate.provenance import open_saved, save_dataset
from microclimate.weather.forecasts import to_wb2
from microclimate.weather.nature import sample

BOX, TIME = (62, 60, 4, 8), ("2024-06-01", "2024-06-02")
FOG = dict(units="g m-3", bounds=(0, 5), long_name="water in fog", transform="log1p", weight=0.5, aliases=["FOGWATER"])


@pytest.fixture(autouse=True)
def table_as_it_was():
    "Rows that a test adds are gone after it."
    before = dict(variables._own)
    yield
    for name in set(variables._own) - set(before):
        variables._remove(variables._own[name])


def write_fog(path):
    "A file of somebody else's: fog in mg m-3 by another name, beside temperature and pressure; made from the nature run."
    ds = mc.open_weather("nature", ["2t", "2d", "msl", "10u", "10v"], region=BOX, time=TIME)
    saturation = np.exp(-0.3 * (ds["2t"] - ds["2d"]).values)
    fog = ds["2t"].copy(data=1500 * saturation).drop_attrs().assign_attrs(units="mg m-3", long_name="cloud water at the ground")
    wind = {f"{c}80m": (1.3 * ds[f"10{c}"]).drop_attrs().assign_attrs(units="km h-1") for c in "uv"}
    ds[["2t", "msl"]].rename({"2t": "t2m"}).assign(FOGWATER=fog, **wind).drop_attrs(deep=False).to_netcdf(path)
    return saturation * 1.5


def hub_winds():
    for name, along in (("80u", "eastward_wind"), ("80v", "northward_wind")):
        mc.register_variable(name, "m s-1", (-150, 150), standard_name=along, aliases=[f"{name[2]}80m"], height=80)


def test_all_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fog = write_fog("theirs.nc")
    mc.register_variable("fog", **FOG)
    hub_winds()

    weather = mc.open_weather("theirs.nc", ["2t", "msl", "fog", "80u", "80v"])
    np.testing.assert_allclose(weather["fog"], fog, rtol=1e-5)
    assert weather["fog"].units == "g m-3" and weather["fog"].long_name == "water in fog"
    assert channels_of(weather) == ("2t", "msl", "fog", "80u", "80v")

    model = mc.fit("edge-dw", weather, epochs=1, progress=False)
    assert model.channels == ("2t", "msl", "fog", "80u", "80v") and limits_of("fog") == (0, 5)
    ahead = mc.forecast(model, weather, "2024-06-02", lead_hours=6)
    assert np.isfinite(ahead["fog"]).all() and float(ahead["fog"].min()) >= 0
    assert {"fog", "80u"} <= set(mc.score(ahead, weather).data_vars)

    assert decimals_for(["fog", "80u", "2t"]) == {"fog": 3, "80u": 1, "2t": 1}
    assert look_of("fog").units == "g m⁻³" and look_of("80u") == look_of("10u")
    mc.plot.weather_map(ahead, "fog")
    assert {"fog", "u80m"} <= set(to_wb2(ahead).data_vars)

    folder = mc.save_model(model, "mine", facts={"source": "theirs.nc"})
    save_dataset(ahead, "ahead.nc", {"source": "theirs.nc"})
    on_disk = xr.open_dataset("ahead.nc")
    assert "u80m" in on_disk and float(on_disk["height_80m"]) == 80
    assert [row["name"] for row in json.loads(on_disk.attrs["provenance"])["variables"]] == ["fog", "80u", "80v"]
    np.testing.assert_array_equal(open_saved("ahead.nc")["80u"], ahead["80u"])
    reread = mc.open_forecast("ahead.nc")
    np.testing.assert_allclose(reread["fog"], ahead["fog"], rtol=1e-6)

    export_model(model, tmp_path / "mine.onnx", engines=("onnxruntime",))
    save_dataset(weather, "start.nc", {})
    forecast_onnx("mine.onnx", "start.nc", "here.nc", hours=3, init_time="2024-06-02")
    np.testing.assert_allclose(open_saved("here.nc")["fog"], ahead["fog"][:, :3], atol=1e-4)

    # another session, which has no such row
    for name in ("fog", "80u", "80v"):
        variables._remove(variables._own[name])
    with pytest.raises(mc.WeatherError, match="Unknown variable 'fog'"):
        mc.open_weather("theirs.nc", ["fog"])
    assert mc.load_model(folder).channels == model.channels and variables.variable("fog").transform == "log1p"
    start = ["mine.onnx", "start.nc", "there.nc", "--hours", "3", "--init-time", "2024-06-02"]
    subprocess.run([sys.executable, "-c", f"from microclimate.device.runner import main; main({start})"], check=True)
    np.testing.assert_array_equal(xr.open_dataset("there.nc")["u80m"], xr.open_dataset("here.nc")["u80m"])


def test_another_row_of_the_same_name_is_refused(tmp_path):
    mc.register_variable("fog", **FOG)
    weather = mc.open_weather("nature", ["2t", "tcc"], region=BOX, time=TIME).rename(tcc="fog")
    model = mc.build_model("edge-dw", Normalizer.fit(weather), mc.Grid.from_dataset(weather))
    folder = mc.save_model(model, tmp_path / "mine", facts={})
    facts = export_facts(model)
    mc.register_variable("fog", **FOG | dict(units="kg m-3"), replace=True)
    with pytest.raises(mc.WeatherError, match="whose units is 'g m-3', here it is 'kg m-3'"):
        mc.load_model(folder)
    with pytest.raises(mc.WeatherError, match="whose units is 'g m-3', here it is 'kg m-3'"):
        for channel in facts["channels"]:
            variables.adopt_rows(channel["own"], "mine.onnx")
    mc.register_variable("fog", **FOG | dict(aliases=[], weight=1), replace=True)  # which decide no number
    assert mc.load_model(folder).channels == ("2t", "fog")


def test_what_only_comes_on_request(tmp_path):
    "Soil, gusts and snow of a file are opened by name alone: they are missing over sea."
    ds = sample(mc.Grid.from_dataset(mc.open_weather("nature", ["2t"], region=BOX)), ["2024-06-01T00", "2024-06-01T01"], variables=["2t"])
    soil = ds["2t"].where(ds["lsm"] > 0.5).drop_attrs().assign_attrs(units="K", standard_name="soil_temperature")
    snow = (0 * soil + 0.2).drop_attrs().assign_attrs(units="m of water equivalent")
    ds[["2t"]].assign(stl1=soil, sd=snow).to_netcdf(tmp_path / "land.nc")
    with pytest.warns(UserWarning, match="left out .stl1, sd."):
        assert set(mc.open_weather(tmp_path / "land.nc").data_vars) == {"2t"}
    with pytest.raises(mc.WeatherError, match="stl1 .* missing values"):
        mc.open_weather(tmp_path / "land.nc", ["2t", "stl1"])
    whole = mc.open_weather(tmp_path / "land.nc", ["2t", "stl1", "sd"], strict=False)
    save_dataset(whole.fillna(dict(stl1=280, sd=0.2)), tmp_path / "ours.nc", {})
    assert set(mc.open_weather(tmp_path / "ours.nc", strict=False).data_vars) == {"2t", "sd", "stl1"}  # asked for once
    assert channels_of(whole) == ("2t", "sd", "stl1") and float(whole["sd"].max()) == pytest.approx(0.2)


def test_an_amount_in_the_air_is_no_rate(tmp_path):
    "Precipitable water is in kg m-2, as sums of rain are, and stays as it is."
    ds = mc.open_weather("nature", ["2t"], region=BOX, time=TIME)
    water = (ds["2t"] / 10).drop_attrs().assign_attrs(units="kg m-2")
    ds.assign(pwat=water).to_netcdf(tmp_path / "water.nc")
    opened = mc.open_weather(tmp_path / "water.nc", ["pwat"])
    np.testing.assert_allclose(opened["pwat"], water, rtol=1e-5)


def test_wind_at_100_m_is_none_at_100_hpa(tmp_path):
    "Both are called u100 somewhere; in our files each has a name of its own."
    ds = mc.open_weather("nature", ["u100", "10u"], region=BOX, time=TIME).rename({"10u": "100u"})
    save_dataset(ds, tmp_path / "both.nc", {})
    names = set(xr.open_dataset(tmp_path / "both.nc").data_vars)
    assert {"u100", "u100m"} <= names
    back = open_saved(tmp_path / "both.nc")
    np.testing.assert_array_equal(back["100u"], ds["100u"])
    np.testing.assert_array_equal(back["u100"], ds["u100"])


def test_names_of_other_centres(tmp_path):
    "ERA5's u100 is at 100 m; gusts are maxima; an own name wins over a standard name that others share."
    mc.register_variable("canopy", "K", (200, 350), standard_name="air_temperature", aliases=["T_CAN"])
    mc.register_variable("s1", "1", (0, 1))
    ds = mc.open_weather("nature", ["10u", "10v", "2t", "tcc"], region=BOX, time=TIME).drop_attrs()
    metres = dict(units="m s-1", long_name="100 metre U wind component")
    gust = dict(units="m s-1", cell_methods="time: maximum", standard_name="wind_speed_of_gust")
    theirs = ds[["2t"]].rename({"2t": "T_CAN"}).assign(s1=ds["tcc"].assign_attrs(units="1"))
    theirs = theirs.assign(u100=ds["10u"].assign_attrs(metres), fg10=abs(ds["10u"]).assign_attrs(gust))
    theirs["T_CAN"].attrs = dict(units="K", standard_name="air_temperature")
    theirs.to_netcdf(tmp_path / "theirs.nc")
    opened = mc.open_weather(tmp_path / "theirs.nc", ["100u", "10fg", "canopy", "s1"])
    for name, field in {"100u": ds["10u"], "10fg": abs(ds["10u"]), "canopy": ds["2t"], "s1": ds["tcc"]}.items():
        np.testing.assert_allclose(opened[name], field, rtol=1e-5, atol=1e-5)


FILE = """
[pollen]
long_name = "pollen near the ground"
units = "ug m-3"
bounds = [0, 20000]
transform = "log1p"
weight = 0.5
aliases = ["POLLEN_SURF"]

[80u]
units = "m s-1"
bounds = [-150, 150]
standard_name = "eastward_wind"
aliases = ["u80m"]
height = 80
"""


def test_a_file_of_rows(tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    pollen, wind = mc.read_variables(tmp_path / "mine.toml")
    assert (pollen.high, pollen.transform, pollen.aliases) == (20000, "log1p", ("POLLEN_SURF",)) and wind.height == 80
    assert mc.read_variables(tmp_path / "mine.toml") == [pollen, wind]  # twice is once


@pytest.mark.parametrize(("text", "words"), [
    ("[pollen", "is no TOML"),
    ("pollen = 3", r"no table \[pollen\]"),
    ("[pollen]\nunits = '1'", "without bounds"),
    ("[pollen]\nunit = '1'\nunits = '1'\nbounds = [0, 1]", "a 'unit', which no variable has: use units"),
    ("[pollen]\nunits = '1'\nbounds = [0, '1']", "give two numbers"),
    ("[pollen]\nunits = 1\nbounds = [0, 1]", "units of variable 'pollen' is 1: give a text"),
    ("[2t]\nunits = 'K'\nbounds = [0, 1]", "taken by 2t"),
])
def test_a_file_with_a_fault(tmp_path, text, words):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(mc.WeatherError, match=words) as error:
        mc.read_variables(tmp_path / "mine.toml")
    assert "mine.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_file_named_by_the_environment(tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    environment = os.environ | {"MICROCLIMATE_VARIABLES": str(tmp_path / "mine.toml")}
    command = "from microclimate.variables import variable; print(variable('pollen').units)"
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "ug m-3\n"
