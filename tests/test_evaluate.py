"""run_evaluate end to end, as a user starts it: models, files of others, stations, real weather, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_runs import COLUMNS, papermill

from microclimate.files import sha256
from microclimate.provenance import verify
from microclimate.weather.open import open_weather
from microclimate.scores.evaluate import TABLE_COLUMNS
from microclimate.weather.forecasts import open_forecast, write_wb2
from microclimate.scores.stations import at_stations, observations_from, read_stations, write_verif

SHORT = dict(start="2025-06-01T00", end="2025-06-02T00", hours_between_starts=24, lead_hours=12,
             variables=["2t", "msl"], climatology="2024", bootstrap_samples=50, thresholds={})
PUBLISHED = {  # ../shared/data/README.md: persistence, and climatology, on 2007
    "2t": ([3.07, 5.23, 7.00, 1.77, 2.25], 2.09),
    "10u": ([1.46, 2.26, 2.92, 2.68, 3.33], 2.49),
    "10v": ([1.52, 2.40, 3.17, 3.21, 3.87], 2.87),
}


def evaluate(out, **parameters):
    "Run the notebook; its table of scores."
    done = papermill("run_evaluate.ipynb", out, **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    return pd.read_csv(out / "scores.csv")


def rmse(table, model):
    "RMSE over the whole region, (variable, lead_hours)."
    rows = table[(table.model == model) & (table.metric == "rmse") & (table.region == "all")]
    return rows.pivot(index="variable", columns="lead_hours", values="value")


@pytest.fixture(scope="module")
def norway(tmp_path_factory):
    "Two starts of the shipped model on the nature run: the folder, and its table."
    out = tmp_path_factory.mktemp("evaluate")
    return out, evaluate(out, **SHORT)


def test_models_are_run_and_scored(norway):
    out, table = norway
    assert list(table.columns) == TABLE_COLUMNS and TABLE_COLUMNS[:7] == COLUMNS
    assert set(table.model) == {"sfno-tiny", "persistence", "climatology"} and set(table.variable) == {"2t", "msl"}
    assert {"rmse", "mae", "bias", "acc", "activity", "skill_persistence", "skill_climatology"} <= set(table.metric)
    assert {"all", "interior", "land", "sea", "below 200 m"} <= set(table.region)
    assert (rmse(table, "sfno-tiny") < rmse(table, "persistence")).all(axis=None)
    climate = table[(table.model == "climatology") & (table.region == "all")].set_index("metric").value
    assert (climate["skill_climatology"] == 0).all() and climate["acc"].isna().all()
    manifest = json.loads((out / "manifest.json").read_text())
    figures = ("scorecard_persistence", "scorecard_climatology", "rmse", "acc", "activity", "spectra", "errors_2t", "edge")
    assert {"scores.csv", "scores.md", *(f"{name}.png" for name in figures)} <= set(manifest["files"])
    assert all(sha256(out / name) == digest for name, digest in manifest["files"].items())
    assert "undefined" in (out / "scores.md").read_text()
    for path in (out / "forecasts").iterdir(): assert verify(path)["config"]["climatology"] == "2024"


def test_a_second_run_forecasts_nothing_anew(norway):
    out, table = norway
    before = {path.name: path.stat().st_mtime_ns for path in (out / "forecasts").iterdir()}
    again = evaluate(out, **SHORT)
    assert {path.name: path.stat().st_mtime_ns for path in (out / "forecasts").iterdir()} == before and len(before) == 3
    pd.testing.assert_frame_equal(again, table)


def test_files_of_others_and_stations(norway, tmp_path):
    "The same forecast in our layout and in WeatherBench 2's has the same scores; stations come with a verif file and a table."
    out, table = norway
    ours = next((out / "forecasts").glob("sfno-tiny*.nc"))
    write_wb2(open_forecast(ours, variables=["2t", "msl"]), tmp_path / "theirs.zarr")
    towns = read_stations(pd.DataFrame(dict(id=[1, 2], name=["Oslo", "Bergen"], lat=[59.91, 60.39], lon=[10.75, 5.32], altitude=[20, 12])))
    truth = open_weather("nature", variables=["2t", "msl", "z_sfc"], time=pd.date_range("2025-06-01T06", "2025-06-02T12", freq="6h"))
    seen = observations_from(truth, towns)
    forecast = at_stations(open_forecast(ours, variables=["2t"]), seen, ground=truth)
    write_verif(forecast, seen, "2t", tmp_path / "seen.nc")
    rows = (seen["msl"] / 100).rename("value").to_dataframe().reset_index().assign(variable="msl", units="hPa")
    rows.rename(columns={"location": "station"}).to_csv(tmp_path / "seen.csv", index=False)
    observations = [str(tmp_path / "seen.nc"), str(tmp_path / "seen.csv")]
    files = [str(ours), str(tmp_path / "theirs.zarr"), "persistence"]
    both = evaluate(tmp_path, **SHORT | dict(forecasts=files, start=None, end=None, observations=observations))
    names = [name for name in dict.fromkeys(both.model) if name != "persistence"]
    assert len(names) == 2 and "theirs" in names
    for name in names: np.testing.assert_allclose(rmse(both, name), rmse(table, "sfno-tiny"), rtol=1e-5)
    assert set(both[both.region == "stations"].model) == {*names, "persistence"}
    at_stations_too = both[(both.region == "stations") & (both.model == "persistence") & (both.metric == "rmse")]
    assert set(at_stations_too.variable) == {"2t", "msl"}
    assert len(list(tmp_path.glob("stations_*_msl.nc"))) == 3
    assert len(list(tmp_path.glob("stations_*_2t.nc"))) == 3 and (tmp_path / "meteogram_2t.png").is_file()


def test_an_ensemble_beside_a_baseline(norway, tmp_path):
    "Members are scored as such, the baseline beside them is not asked for its spread; ranks and reliability are drawn."
    one = open_forecast(next((norway[0] / "forecasts").glob("sfno-tiny*.nc")), variables=["2t"]).load()
    members = [one + float(shift) for shift in np.random.default_rng(0).normal(size=5)]
    crowd = xr.concat(members, pd.Index(range(5), name="number")).assign_attrs(one.attrs, model="crowd")
    crowd["2t"].attrs = one["2t"].attrs
    write_wb2(crowd, tmp_path / "crowd.zarr")
    forecasts = [str(tmp_path / "crowd.zarr"), "persistence"]
    table = evaluate(tmp_path, **SHORT | dict(forecasts=forecasts, start=None, end=None, variables=["2t"], thresholds={"2t": [285]}))
    assert set(table[table.metric == "crps"].model) == {"crowd"} and table[table.metric == "spread_skill"].value.notna().all()
    assert {"ranks_crowd.png", "reliability_crowd_2t.png"} <= {path.name for path in tmp_path.iterdir()}


def test_met_norway_is_its_own_truth(shared, tmp_path):
    "An operational file in MET Norway's layout, on its Lambert grid: as forecast and truth it has no error."
    source = str(shared / "arome_arctic_2p5km_20180710.nc")
    table = evaluate(tmp_path, forecasts=[source], source=source, start=None, end=None, lead_hours=12, climatology="none", thresholds={},
                     variables=["2t", "tp", "z500"], bootstrap_samples=0)
    assert (table[table.metric.isin(["rmse", "mae", "bias"])].value.abs() < 1e-5).all() and set(table.lead_hours) == {3, 6, 9, 12}


def test_gulf_2007_has_the_published_errors(shared, tmp_path):
    "Every 3-hourly start of a year to 48 h, climatology from the four years before, the plain mean of the published table."
    table = evaluate(tmp_path, forecasts=["persistence", "climatology"], source=str(shared / "era5_gulf_2003_2007" / "*.nc"),
                     start="2007-01-01T00", end="2007-12-31T21", hours_between_starts=3, lead_hours=48, hours_between_leads=3,
                     climatology="2003/2006", weighting="plain", thresholds={}, batch_size=512, bootstrap_samples=200)
    for name, (persistence, climatology) in PUBLISHED.items():
        # half of the last digit, and a little for 10u at 48 h: 3.3247, which the table has as 3.33
        np.testing.assert_allclose(rmse(table, "persistence").loc[name, [3, 6, 12, 24, 48]], persistence, atol=0.0055)
        assert (rmse(table, "climatology").loc[name] < climatology + 0.1).all()
    skill = table[(table.model == "climatology") & (table.metric == "skill_persistence") & (table.region == "all")]
    assert ((skill.low < skill.value) & (skill.value < skill.high)).all()


@pytest.mark.parametrize("wrong, sentence", [
    (dict(forecasts=["sfno-gigantic"]), "sfno-gigantic"),
    (dict(climatology="1066"), "1066"),
    (dict(variables=["2t", "snow"]), "snow"),
    (dict(lead_hours=-6), "lead_hours"),
], ids=["forecast", "climatology", "variable", "lead"])
def test_what_cannot_be_evaluated_is_said(tmp_path, wrong, sentence):
    done = papermill("run_evaluate.ipynb", tmp_path, **SHORT | wrong)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.lstrip("\x1b[A").startswith("Error: ") and sentence in last, done.stderr[-1500:]
