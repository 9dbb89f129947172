"""The run notebooks end to end, as a user starts them, on synthetic and on real weather."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from microclimate.batch import Normalizer
from microclimate.variables import CHANNELS
from microclimate.files import sha256
from microclimate.provenance import open_saved, verify
from microclimate.weather.open import open_weather
from microclimate.grid import regular_grid
from microclimate.models.registry import build_model, save_model

ROOT = Path(__file__).parents[1]
COLUMNS = ["model", "boundary", "variable", "lead_hours", "metric", "value", "units"]


def papermill(book, out_dir, cwd=ROOT, **parameters):
    "Run a notebook in a process of its own; what it printed, and whether it worked."
    lists = {k: v for k, v in parameters.items() if v is None or isinstance(v, (list, dict))}
    words = [w for k, v in parameters.items() if k not in lists for w in ("-p", k, str(v))]
    command = ["papermill", str((ROOT / "nbs" / book).relative_to(cwd)), str(out_dir / book), "-p", "out_dir", str(out_dir), *words]
    if lists: command += ["-y", json.dumps(lists)]
    out_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(OMP_NUM_THREADS="1", PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def norway(tmp_path_factory):
    "The main job, started from nbs/ with its defaults."
    out = tmp_path_factory.mktemp("norway")
    done = papermill("run_forecast.ipynb", out, cwd=ROOT / "nbs")
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_forecast_file(norway):
    ds = open_saved(norway / "forecast.nc")
    assert set(CHANNELS) <= set(ds.data_vars) and ds["2t"].shape == (1, 24, 64, 112)
    assert list(ds.lead_time.values / np.timedelta64(1, "h")) == list(range(1, 25))
    assert str(ds.init_time.values[0])[:13] == "2024-06-08T00"
    assert ds["2t"].attrs["standard_name"] == "air_temperature" and ds.attrs["Conventions"] == "CF-1.11" and ds.attrs["synthetic"] == 1
    assert all(np.isfinite(ds[n].values).all() for n in CHANNELS)
    assert verify(norway / "forecast.nc")["model"] == "sfno-tiny" and verify(norway / "forecast_boundary.nc")["source"].startswith("nature")


def test_forecast_scores(norway):
    table = pd.read_csv(norway / "scores.csv")
    assert list(table.columns[:7]) == COLUMNS
    assert set(table.model) == {"sfno-tiny", "persistence", "climatology"} and set(table.boundary) == {"none", "source"}
    rmse = table[(table.metric == "rmse") & (table.boundary == "none")]
    rmse = rmse.pivot_table(index=["variable", "lead_hours"], columns="model", values="value")
    assert len(rmse) == 14 * 24  # thirteen channels, and the wind as a vector
    assert (rmse["sfno-tiny"] < rmse["persistence"]).loc[["msl", "z500", "t850"]].unstack()[[6, 12, 24]].all(axis=None)


def test_forecast_manifest(norway):
    manifest = json.loads((norway / "manifest.json").read_text())
    assert manifest["parameters"]["lead_hours"] == 24 and manifest["model"] == "sfno-tiny" and len(manifest["weights_sha256"]) == 64
    assert {"forecast.nc", "scores.csv", "week.png", "meteogram.png", "animation.gif"} <= set(manifest["files"])
    assert all(sha256(norway / name) == digest for name, digest in manifest["files"].items())


@pytest.mark.parametrize("wrong, sentence", [
    (dict(model="sfno-gigantic"), "Unknown model 'sfno-gigantic'"),
    (dict(lead_hours=-24), "lead_hours must be a whole number"),
    (dict(lead_hour=24), "no parameter 'lead_hour': did you mean 'lead_hours'?"),
    (dict(source="no/such/file.nc"), "no/such/file.nc"),
], ids=["model", "lead", "name", "source"])
def test_wrong_parameters_leave_earlier_outputs(tmp_path, wrong, sentence):
    (tmp_path / "forecast.nc").write_text("earlier")
    done = papermill("run_forecast.ipynb", tmp_path, **wrong)
    assert done.returncode != 0 and sentence in done.stderr
    assert (tmp_path / "forecast.nc").read_text() == "earlier" and not (tmp_path / "scores.csv").exists()


def test_finse_trains_and_forecasts(shared, tmp_path):
    "Real ERA5: a few epochs, a model folder, and a forecast with it."
    source = str(shared / "era5_finse_2018" / "*.nc")
    recipe = dict(epochs=4, rollout=[1], val_steps=3, history=2, batch_size=32, recipe={"ema": 0.9}, lead_hours=6)
    done = papermill("run_train.ipynb", tmp_path, source=source, test_starts=None, **recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = pd.read_csv(tmp_path / "model" / "scores.csv")
    rmse = scores[(scores.metric == "rmse_plain") & (scores.variable == "2t")]
    rmse = rmse.pivot_table(index="lead_hours", columns="model", values="value")
    assert np.allclose(rmse["persistence"][[1, 3, 6]], [0.60, 1.43, 2.29], atol=0.005)  # measured before, by others
    name = tmp_path.name  # the model is called by its folder
    assert (rmse[name] < rmse["persistence"]).all()
    there = tmp_path / "forecast"
    again = papermill("run_forecast.ipynb", there, source=source, model=tmp_path / "model", init_time="2018-12-20T00", lead_hours=6)
    assert again.returncode == 0, again.stderr[-3000:]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert verify(there / "forecast.nc")["weights_sha256"] == config["weights_sha256"]


def test_arome_arctic_on_its_own_projection(shared, tmp_path):
    "A real operational forecast on a Lambert grid: persistence alone."
    source = str(shared / "arome_arctic_2p5km_20180710.nc")
    done = papermill("run_forecast.ipynb", tmp_path, source=source, model="none", init_time="2018-07-11T12", history_days=1, lead_hours=12)
    assert done.returncode == 0, done.stderr[-3000:]
    ds = open_saved(tmp_path / "forecast.nc")
    assert ds["2t"].dims == ("init_time", "lead_time", "y", "x") and ds["2t"].attrs["grid_mapping"] == "crs" and ds.attrs["synthetic"] == 0


SMALL = dict(region=[62, 58, 5, 11], start="2024-06-01", end="2024-06-21", spell_hours=None, variables=["2t", "10u", "10v", "msl"],
             holdout="2024-06-17/2024-06-21", validate="2024-06-14/2024-06-16", aux=["solar"], test_starts=6, lead_hours=3, val_steps=2)


def test_variants_are_compared_in_equal_time_and_gone_on_with(tmp_path):
    "Three variants, two seeds, two seconds each; the same command again trains nothing and finds the same."
    names, region = SMALL["variables"], SMALL["region"]
    weather = open_weather("nature", variables=names, region=region, time=("2024-06-01", "2024-06-02"))
    teacher = build_model("edge-dense", Normalizer.fit(weather), regular_grid(*region, 0.25), aux=("solar",), dims=(8, 8, 16))
    save_model(teacher, tmp_path / "teacher", {})
    changes = {"plain": {}, "momentum": {"physics": {"momentum": 0.1}}, "taught": {"teacher": str(tmp_path / "teacher")}}
    asked = dict(changes=changes, seeds=2, seconds=2, recipe=dict(epochs=2, rollout=[1, 2], lr=2e-3), **SMALL)
    done = papermill("run_compare.ipynb", tmp_path, **asked)
    assert done.returncode == 0, done.stderr[-3000:]
    scores, residuals = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("scores", "residuals"))
    assert set(scores.model) == {"plain-0", "plain-1", "momentum-0", "momentum-1", "taught-0", "taught-1", "persistence", "climatology"}
    assert set(residuals.variant) == set(changes) and (residuals.forecast > 0).all()
    assert (tmp_path / "momentum-1" / "model" / "config.json").is_file() and (tmp_path / "curves.png").is_file()
    again = papermill("run_compare.ipynb", tmp_path, **asked)
    assert again.returncode == 0, again.stderr[-3000:]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scores.csv"), scores)


def test_shipped_model_is_fine_tuned(tmp_path):
    "Moved to a small region with four channels: an adapter, a merged model and a full one, each a folder that forecasts."
    done = papermill("run_finetune.ipynb", tmp_path, source="nature:5", epochs=2, rank=4, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores.model) == {"before", "lora", "full", "scratch", "persistence"}
    assert any(p.suffix == ".safetensors" for p in (tmp_path / "adapter").iterdir())
    for name in ("lora", "full"):
        assert json.loads((tmp_path / name / "config.json").read_text())["name"] == f"{tmp_path.name}-{name}"
