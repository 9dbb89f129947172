"""Weather of one's own, as the README tells it: trained, forecast, scored, exported and forecast without torch, on nothing but defaults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from microclimate.files import shared_data
from microclimate.provenance import verify
from microclimate.weather.forecasts import open_forecast
from microclimate.weather.open import open_weather

ROOT = Path(__file__).parents[1]
QUICK = dict(epochs=1, rollout="1", batch_size=32, max_val_windows=8)
BIN = Path(sys.executable).parent


def run(name, out, **parameters):
    "A run notebook by papermill; its manifest."
    words = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    out.mkdir(parents=True)
    command = [BIN / "papermill", ROOT / "nbs" / f"{name}.ipynb", out / "book.ipynb", "-p", "out_dir", out, *words]
    environment = os.environ | dict(OMP_NUM_THREADS="1", PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def a_fortnight(tmp_path_factory):
    "A NetCDF file as somebody else would write it: other names, units and order."
    path = tmp_path_factory.mktemp("weather") / "fortnight.nc"
    ds = open_weather("nature", ["2t", "10u", "10v", "msl"], [61, 58, 5, 8], ("2024-06-01", "2024-06-12"))
    celsius = (ds["2t"] - 273.15).assign_attrs(units="degC")
    ds = ds.assign({"2t": celsius}).rename({"2t": "t2m", "10u": "u10", "10v": "v10"}).sortby("latitude").assign_attrs(title="a fortnight")
    ds.to_netcdf(path)
    return path


def tell_the_story(source, folder):
    "Every step of it, each with the defaults that follow the data; what is checked is what a reader would look for."
    trained = run("run_train", folder / "mine", source=source, **QUICK)
    assert {"model/weights.safetensors", "training.png", "rmse.png"} <= set(trained["files"]) and trained["model"] == "mine"
    model = folder / "mine" / "model"
    scores = pd.read_csv(model / "scores.csv")
    assert {"mine", "persistence"} <= set(scores.model) and np.isfinite(scores.value[scores.metric == "rmse"]).all()

    ahead = run("run_forecast", folder / "ahead", source=source, model=model, lead_hours=12)
    assert "forecast.nc" in ahead["files"] and "scores.csv" not in ahead["files"], "there is no truth after the last state"
    facts = verify(folder / "ahead" / "forecast.nc")
    assert facts["model"] == "mine" and facts["weights_sha256"] == json.loads((model / "config.json").read_text())["weights_sha256"]

    run("run_evaluate", folder / "scores", source=source, forecasts=f"[{model}, persistence, climatology]", lead_hours=12)
    assert {"mine", "persistence"} <= set(pd.read_csv(folder / "scores" / "scores.csv").model)

    quick = dict(rollout="1", epochs=1, rounds=1, max_val_windows=8, engines="onnxruntime", pruned_share=0, calibration_samples=8)
    exported = run("run_export", folder / "onnx", model=model, **quick)
    assert {"fp32.onnx", "table.csv"} <= set(exported["files"])


def test_on_a_file_that_was_written_for_it(a_fortnight, tmp_path):
    "And to the end: the exported model starts from the last state too, without torch, and forecasts what the model did."
    tell_the_story(a_fortnight, tmp_path)
    out = tmp_path / "device.nc"
    command = [BIN / "forecast_onnx", tmp_path / "onnx" / "fp32.onnx", tmp_path / "onnx" / "start.nc", out, "--hours", "12"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (open_forecast(path) for path in (out, tmp_path / "ahead" / "forecast.nc"))
    np.testing.assert_array_equal(one.lead_time, other.lead_time)
    for name in ("2t", "msl"):
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-4)


def test_on_real_weather(tmp_path):
    if (folder := shared_data()) is None:
        pytest.skip("no real weather files here: ../shared/data is absent, and MICROCLIMATE_SHARED_DATA names no folder")
    tell_the_story(folder / "era5_finse_2018" / "*.nc", tmp_path)
