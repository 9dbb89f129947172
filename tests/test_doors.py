"""What comes in by other doors than open_weather's: archives, forecasts, climatologies, stations, splits, runs."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.files import sha256
from microclimate.grid import spells
from microclimate.models.registry import model_folder, read_config
from microclimate.parameters import SOURCE
from microclimate.provenance import provenance, save_dataset
from microclimate.runs.case import open_case
from microclimate.runs.session import begin_run
from microclimate.runs.training import trained_on
from microclimate.scores.stations import at_stations, open_observations, read_stations, read_verif
from microclimate.scores.verification import check_climatology
from microclimate.training.lightning import MetricsLog, StepsBar
from microclimate.training.loader import split_times
from microclimate.weather.climate import climatology, open_climatology
from microclimate.weather.forecasts import open_forecast
from microclimate.weather.open import open_weather

AXES = dict(latitude=[61.0, 60.5, 60.0], longitude=[9.0, 9.5, 10.0, 10.5])


def hours(n, start="2024-06-01"): return pd.date_range(start, periods=n, freq="h")


def field(values, **attrs):
    "`(n, 3, 4)` from one number for each time."
    values = np.reshape(values, (-1, 1, 1))
    whole = np.broadcast_to(values, (len(values), 3, 4)).astype("f4")
    return ("time", "latitude", "longitude"), whole, attrs


def write(path, ds):
    ds.to_netcdf(path, engine="netcdf4")
    return path


def zip_files(path, *files):
    with zipfile.ZipFile(path, "w") as archive:
        for file in files: archive.write(file, file.name)
    return path


# --- archives -----------------------------------------------------------------------------------

def test_an_archive_of_copernicus_is_its_files_together(tmp_path):
    "States and sums in two files, as the Climate Data Store packs them under the name .nc."
    axes = AXES | dict(time=hours(3), number=0, expver=("time", ["0001"] * 3))
    about = dict(institution="European Centre for Medium-Range Weather Forecasts")
    states = xr.Dataset({"t2m": field([280, 281, 282], units="K")}, axes, about)
    sums = xr.Dataset({"tp": field([1e-3, 0, 2e-3], units="m")}, axes, about)
    parts = [write(tmp_path / f"data_stream-oper_stepType-{kind}.nc", ds.rename(time="valid_time"))
             for kind, ds in (("instant", states), ("accum", sums))]
    archive = zip_files(tmp_path / "era5.nc", *parts)
    with open_weather(archive) as packed, open_weather(parts) as plain:
        for name in ("2t", "tp"): np.testing.assert_array_equal(packed[name], plain[name])
    np.testing.assert_allclose(packed["tp"][:, 0, 0], [1, 0, 2], rtol=1e-6)
    lazy = open_weather(archive, ["2t"], lazy=True)
    np.testing.assert_array_equal(lazy["2t"], packed["2t"])


def test_a_damaged_file_in_an_archive_is_named(tmp_path):
    whole = write(tmp_path / "june.nc", xr.Dataset({"t2m": field([280], units="K")}, AXES | dict(time=hours(1))))
    short = tmp_path / "july.nc"
    short.write_bytes(whole.read_bytes()[:-40])
    archive = zip_files(tmp_path / "both.zip", whole, short)
    with pytest.raises(WeatherError, match="^july.nc in .*both.zip was cut short"): open_weather(archive)


def test_a_name_with_brackets_is_a_name_where_it_exists(tmp_path):
    ds = xr.Dataset({"t2m": field([280, 281], units="K")}, AXES | dict(time=hours(2)))
    write(tmp_path / "era5 [1].nc", ds)
    assert open_weather(tmp_path / "era5 [1].nc").sizes["time"] == 2
    assert open_weather(str(tmp_path / "era5 [[]1].nc")).sizes["time"] == 2


# --- what is held out ---------------------------------------------------------------------------

def test_held_out_weeks_stay_where_they_are_when_data_grow():
    time = np.arange("2018-10-01", "2019-01-01", dtype="M8[h]").astype("M8[ns]")
    whole = split_times(time, 4, 5)
    for part in (time >= np.datetime64("2018-10-08"), time < np.datetime64("2018-12-03"), time.astype(int) % 7 == 0):
        split = split_times(time[part], 4, 5)
        for name, mask in whole.items(): np.testing.assert_array_equal(split[name], mask[part])


def test_the_shipped_model_is_split_as_it_was_trained():
    "It was trained when weeks were counted from the first time of the data, and says which starts were held out."
    known = trained_on("sfno-tiny")
    starts = read_config(model_folder("sfno-tiny"))["provenance"]["config"]["test_starts"]
    times = spells(known["start"], known["end"], known["spell_hours"], known["spell_every"])
    test = split_times(times, known["holdout"], known["validate"])["test"]
    assert known["holdout"] == "4 from first" and len(starts) == 24
    assert np.isin(np.array(starts, "M8[ns]"), times[test]).all()
    assert not np.isin(np.array(starts, "M8[ns]"), times[split_times(times, 4, 5)["test"]]).all()


# --- forecasts ----------------------------------------------------------------------------------

def one_run(values, start="2024-06-01", **attrs):
    time = hours(len(values), np.datetime64(start, "h") + 1)
    return xr.Dataset({"t2m": field(values, units="K")}, AXES | dict(time=time, forecast_reference_time=np.datetime64(start, "ns")), attrs)


def both_axes(ds):
    "The same in a file with both axes, which stays on disk."
    start = ds["forecast_reference_time"].values
    ds = ds.assign_coords(prediction_timedelta=("time", ds["time"].values - start)).swap_dims(time="prediction_timedelta")
    return ds.drop_vars(["time", "forecast_reference_time"]).expand_dims(time=[start])


@pytest.mark.parametrize("layout", [lambda ds: ds, both_axes])
def test_marks_of_missing_values_in_a_forecast_are_refused(tmp_path, layout):
    ds = one_run([280, 281, 282])
    ds["t2m"][1, 0, 0] = -999
    write(tmp_path / "marks.nc", layout(ds))
    with pytest.raises(WeatherError, match="2t in .*marks.nc is -999 K at 1 of .*declare the mark"):
        open_forecast(tmp_path / "marks.nc").load()
    ds["t2m"].encoding["_FillValue"] = -999.0
    write(tmp_path / "declared.nc", layout(ds))
    opened = open_forecast(tmp_path / "declared.nc")["2t"]
    assert np.isnan(opened[0, 1, 0, 0]) and int(opened.isnull().sum()) == 1


def test_marks_do_not_hide_in_what_is_derived(tmp_path):
    ds = one_run([280, 281]).assign(r2=field([50, 60], units="%"))
    ds["r2"][0, 1, 1] = -999
    write(tmp_path / "humid.nc", ds)
    with pytest.raises(WeatherError, match="2r in .*humid.nc is -999 %"): open_forecast(tmp_path / "humid.nc", ["2d"])


def test_one_gap_in_a_sum_since_the_start_stays_in_its_cell(tmp_path):
    start = np.datetime64("2024-06-01", "ns")
    ds = xr.Dataset({"tp": field(np.arange(13.0), units="mm"), "t2m": field(np.full(13, 280.0), units="K")}, AXES | dict(time=hours(13)))
    ds["tp"][6, 2, 2] = np.nan
    ds = ds.assign_coords(prediction_timedelta=("time", ds["time"].values - start)).swap_dims(time="prediction_timedelta")
    path = write(tmp_path / "gap.nc", ds.drop_vars("time").expand_dims(time=[start]))
    rain = open_forecast(path)["tp"]
    np.testing.assert_allclose(rain[0, :, 0, 0], 1, rtol=1e-5)
    gap = np.isnan(rain[0]).values
    assert gap[:, 2, 2].any() and not gap[:, :2].any()


def test_a_checksum_is_compared_not_believed(tmp_path):
    forecast = one_run([280, 281]).rename(t2m="2t").assign_attrs(model="mine")
    forecast = forecast.drop_vars("forecast_reference_time").assign_coords(
        lead_time=("time", hours(2) - hours(1, "2024-05-31T23")[0])).swap_dims(time="lead_time").drop_vars("time")
    forecast = forecast.expand_dims(init_time=hours(1))
    save_dataset(forecast, tmp_path / "mine.nc", provenance(model="mine"))
    told = open_forecast(tmp_path / "mine.nc").attrs["source_sha256"]
    with xr.load_dataset(tmp_path / "mine.nc", engine="netcdf4", decode_timedelta=True) as ds:
        assert told == ds.attrs["content_sha256"]
        name = next(n for n in ds.data_vars if ds[n].ndim > 2)
        ds[name][0, 0, 0] += 1
        write(tmp_path / "changed.nc", ds)
    with pytest.warns(UserWarning, match="changed.nc was changed after it was written"):
        assert open_forecast(tmp_path / "changed.nc").attrs["source_sha256"] == sha256(tmp_path / "changed.nc") != told


# --- climatologies ------------------------------------------------------------------------------

def of_the_day(values, **attrs):
    "`(4, 3, 4)`, one field for each hour of 0, 6, 12, 18."
    ds = xr.Dataset({"x": field(values, **attrs)}).rename(time="hour")
    return ds["x"].assign_coords(AXES | dict(hour=[0, 6, 12, 18]))


def test_a_climatology_is_converted_from_its_own_units(tmp_path):
    ds = xr.Dataset({"t2m": of_the_day([10, 11, 12, 13], units="degC"), "total_precipitation_6hr": of_the_day([1, 2, 3, 6], units="mm")})
    opened = open_climatology(write(tmp_path / "usual.nc", ds))
    np.testing.assert_allclose(opened["2t"][:, 0, 0], 273.15 + np.arange(10, 14), rtol=1e-6)
    np.testing.assert_allclose(opened["tp"][:, 0, 0], [1 / 6, 1 / 3, 1 / 2, 1], rtol=1e-6)
    write(tmp_path / "sums.nc", xr.Dataset({"ssrd": of_the_day([0, 1e6, 2e6, 1e6], units="J m-2")}))
    with pytest.raises(WeatherError, match="sums.nc is an amount in J m-2 over an unknown time"): open_climatology(tmp_path / "sums.nc")


def test_a_mark_in_a_climatology_is_seen_wherever_it_is(tmp_path):
    ds = xr.Dataset({"t2m": of_the_day([280, 281, 282, 283], units="K")})
    ds["t2m"][3, 2, 3] = -999
    opened = open_climatology(write(tmp_path / "marks.nc", ds))
    with pytest.raises(WeatherError, match="2t in .*marks.nc runs from -999"): opened.load()


def test_a_climatology_comes_through_the_same_door(tmp_path):
    usual = write(tmp_path / "usual.nc", xr.Dataset({"t2m": of_the_day([280, 281, 282, 283], units="K")}))
    assert open_climatology(zip_files(tmp_path / "usual.zip", usual))["2t"].shape == (4, 3, 4)
    (tmp_path / "short.nc").write_bytes(usual.read_bytes()[:-50])
    with pytest.raises(WeatherError, match="short.nc was cut short"): open_climatology(tmp_path / "short.nc")


def test_dry_is_a_quarter_of_a_millimetre_in_the_window_of_the_sums():
    "Sums over one hour, of which the file has every sixth."
    time = pd.date_range("2023-01-01", "2023-12-31T18", freq="6h")
    rain = np.random.default_rng(0).gamma(0.2, 1, (len(time), 3, 4)).astype("f4")
    rates = xr.DataArray(rain, AXES | dict(time=time), ("time", "latitude", "longitude"), attrs=dict(units="kg m-2 h-1", window_hours=1))
    weather = xr.Dataset({"tp": rates}, attrs=dict(step_hours=6.0))
    usual = climatology(weather, "hour", precipitation=True)
    assert usual["tp_dry"].attrs["dry_below"] == 0.25
    noon = rates[time.hour == 12]
    np.testing.assert_allclose(usual["tp_dry"].sel(hour=12), (noon < 0.25).mean("time"), rtol=1e-6)
    forecast = weather.isel(time=slice(1, 3)).rename(time="lead_time").assign_coords(lead_time=hours(2, "2023-01-01T06") - time[0])
    forecast = forecast.expand_dims(init_time=time[:1])
    forecast["tp"].attrs["window_hours"] = 6
    with pytest.raises(WeatherError, match="mean over 6 h in the forecast, but the climatology's limits of dry and heavy are for 1 h"):
        check_climatology(usual, forecast)


# --- stations -----------------------------------------------------------------------------------

TEXT = """# variable: {name}
# units: K
date hour leadtime location lat lon altitude obs fcst
20240607 12 0 1 60.5 9.5 -999 281 282
20240607 12 3 1 60.5 9.5 -999 -999 283
20240607 12 3 2 60.25 10 40 279 na
"""


def test_text_of_verif_is_what_verif_reads(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TEXT.format(name="2t"))
    forecast, seen = read_verif(path)
    theirs = pytest.importorskip("verif.input").Text(str(path))
    np.testing.assert_array_equal(forecast.init_time.values.astype("M8[s]").astype(int), theirs.times)
    np.testing.assert_array_equal(forecast.lead_time.values / np.timedelta64(1, "h"), theirs.leadtimes)
    order = np.argsort([place.id for place in theirs.locations])
    np.testing.assert_allclose(forecast["2t"], theirs.fcst[:, :, order], rtol=1e-6)
    at = forecast.init_time.values[:, None] + forecast.lead_time.values
    np.testing.assert_allclose(seen["2t"].sel(time=at[0]), theirs.obs[0][:, order], rtol=1e-6)


@pytest.mark.parametrize("old, new, words", [
    ("20240607 12 0 1", "na 12 0 1", "Row 1 of .* lacks its date"), ("date", "day", "has no column date"),
    ("281", "281 1", "Row 1 of .* has 10 columns, its header 9"), ("279", "2790", "observation of 2t in .* is 2790 K|2t in .* is 2790 K"),
    ("3 2 60.25 10", "3 1 60.5 9.5", "Row 3 of .* has the start, lead and station of an earlier one"),
])
def test_text_that_cannot_be_understood(tmp_path, old, new, words):
    (tmp_path / "mine.txt").write_text(TEXT.format(name="2t").replace(old, new))
    with pytest.raises(WeatherError, match=words): read_verif(tmp_path / "mine.txt")


def test_an_unknown_altitude_matters_only_where_heights_are_corrected():
    places = read_stations(pd.DataFrame(dict(id=[1, 2], lat=[60.5, 60.2], lon=[9.5, 10], altitude=[-999, 40])))
    ds = xr.Dataset({"2t": field([280, 281], units="K"), "10u": field([1, 2], units="m s-1")}, AXES | dict(time=hours(2)))
    ds["z_sfc"] = ds["2t"][0] * 0 + 500.0
    with pytest.raises(WeatherError, match="no altitude of 1 to correct 2t to"): at_stations(ds, places)
    assert at_stations(ds, places, lapse_rate=None)["2t"].shape == (2, 2) == at_stations(ds[["10u", "z_sfc"]], places)["10u"].shape


def test_a_mark_among_observations_says_what_to_do():
    where = dict(time="2024-06-07T06", station=1, lat=60.5, lon=9.5, altitude=40)
    table = pd.DataFrame(where | dict(variable="2t", units="celsius", value=[-999]))
    with pytest.raises(WeatherError, match="leave the value empty where it is missing"): open_observations(table)
    with pytest.raises(WeatherError, match="no time in column 'time' but '06:00'"): open_observations(table.assign(time="06:00"))


# --- runs ---------------------------------------------------------------------------------------

def test_a_source_may_be_a_list_of_files(tmp_path):
    weather = open_weather("nature", ["2t", "msl"], (62, 60, 4, 8), ("2024-06-01", "2024-06-02"))
    files = [write(tmp_path / f"{k}.nc", weather.isel(time=slice(24 * k, 24 * k + 24))) for k in range(2)]
    for given in (files, str([str(path) for path in files])):
        case = open_case(SOURCE.read(given), "none", "2024-06-02T00", lead_hours=3, history_days=0)
        assert case.weather.sizes["time"] == 5 and case.is_synthetic and case.climatology() is None


def test_what_has_no_times_is_no_start(tmp_path):
    still = xr.Dataset({"z": field([1000], units="m2 s-2")}, AXES | dict(time=hours(1))).isel(time=0, drop=True)
    path = write(tmp_path / "still.nc", still)
    with pytest.raises(WeatherError, match="still.nc has no time axis, only z_sfc"): open_case(str(path), "none")


def test_a_run_is_alone_in_its_folder_and_tidies_it(tmp_path):
    "Another process holds the folder; when it is killed, the next run takes it over and removes its half."
    code = f"""
from pathlib import Path
from microclimate.files import aside
from microclimate.runs.session import lock_folder
folder = Path({str(tmp_path)!r})
lock_folder(folder)
aside(folder / "forecast.nc").touch()
print("ready", flush=True)
input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    cell = "out_dir = ''\nsource = ''"
    notebook = dict(In=[cell], out_dir=str(tmp_path), source="nature")
    with pytest.raises(WeatherError, match=f"Another run, process {other.pid}, is at work in"): begin_run(dict(notebook))
    other.kill()
    other.wait()
    run = begin_run(dict(notebook))
    assert not list(tmp_path.glob(".forecast*"))
    run.finish()
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(WeatherError, match="forecast.nc, which a run writes"): begin_run(notebook | dict(source=f"{tmp_path}/*.nc"))


def test_ctrl_c_before_the_first_step_is_no_other_error(tmp_path):
    bar = StepsBar(MetricsLog(tmp_path / "metrics.csv", 1))
    bar.on_exception(None, None, KeyboardInterrupt())


# --- the nature run -----------------------------------------------------------------------------

def test_the_nature_run_has_the_same_bits_on_any_number_of_threads():
    code = """
import hashlib
from microclimate.weather.open import open_weather
weather = open_weather("nature", time=("2024-06-01", "2024-06-01T02"))
print({name: hashlib.sha256(field.values.tobytes()).hexdigest() for name, field in weather.items()})
"""
    said = set()
    for threads in ("1", "2", "5"):
        environment = os.environ | dict(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
        said.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 1
