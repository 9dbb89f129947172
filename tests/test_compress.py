"""Compressed models across modules: every family is pruned and built again from its folder, and run_export makes its table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from test_runs import papermill

from microclimate.batch import Normalizer
from microclimate.delivery.compress import (in_bfloat16, load_exported, prune, quantise, sample_inputs, sensitivity,
                                            with_rounding, without_rounding)
from microclimate.errors import WeatherError
from microclimate.weather.open import open_weather
from microclimate.delivery.export import export_model, quantise_weights, randomise_weights
from microclimate.grid import regular_grid
from microclimate.training.loader import WeatherData
from microclimate.models.registry import build_model, load_model, save_model
from microclimate.networks.net import count_parameters
from microclimate.models.rollout import forecast
from microclimate.device.runner import read_facts

FEW = ("2t", "10u", "10v", "msl")


def walks():
    "Weather that wanders at random."
    grid, rng = regular_grid(62, 60, 4, 7, 0.25), np.random.default_rng(0)
    time = np.datetime64("2024-06-01", "ns") + np.arange(60) * np.timedelta64(1, "h")
    walk = lambda mean, size: (("time", *grid.dims), (mean + size * rng.normal(size=(60, *grid.shape)).cumsum(0)).astype("float32"))
    fields = {"2t": walk(285, 0.3), "10u": walk(3, 0.2), "10v": walk(1, 0.2), "msl": walk(101000, 30)}
    return xr.Dataset(fields, coords=grid.coords() | dict(time=time))


wander = pytest.fixture(scope="module")(walks)


@pytest.mark.parametrize("name", ["edge-dw", "edge-dense", "gnn-tiny", "sfno-tiny"])
def test_pruned_models_are_smaller_and_come_back(name, wander, tmp_path):
    data = WeatherData(wander, batch_size=4)
    model = build_model(name, data.normalizer, data.grid, aux=("solar",))
    randomise_weights(model.net)
    small = prune(model.eval(), data, 0.3)
    assert 0.6 < count_parameters(small.net) / count_parameters(model.net) <= 0.7
    again = load_model(save_model(small, tmp_path / "small", {}))
    assert count_parameters(again.net) == sum(v.numel() for v in small.net.parameters())
    start = wander.time.values[[3]]
    here = forecast(small, wander, start, 2)
    xr.testing.assert_identical(forecast(again, wander, start, 2), here)
    export_model(again, tmp_path / "small.onnx", engines=("onnxruntime",))
    there = forecast(load_exported(again, tmp_path / "small.onnx"), wander, start, 2)
    for i, n in enumerate(model.channels):
        assert abs(here[n] - there[n]).max() < 1e-3 * model.normalizer.std[i]
    assert count_parameters(prune(again, data, 0.2).net) <= 0.8 * count_parameters(again.net)


@pytest.fixture(scope="module")
def small(wander, tmp_path_factory):
    "A small model, its data and its file."
    data, path = WeatherData(wander, batch_size=4), tmp_path_factory.mktemp("small") / "model.onnx"
    model = build_model("edge-dense", data.normalizer, data.grid, aux=("solar",), dims=(16, 24, 32))
    randomise_weights(model.net)
    export_model(model.eval(), path, engines=("onnxruntime",))
    return model, data, path


def test_a_file_of_another_model_is_refused(small, tmp_path):
    model, data, path = small
    other = build_model("edge-dense", data.normalizer, data.grid, aux=("solar",), dims=(16, 24, 32)).eval()
    to_int8 = (lambda model, path, out: quantise(model, path, out, data, 4), quantise_weights)
    for make in to_int8:
        with pytest.raises(WeatherError, match="another model than the edge-dense given, or to other weights"):
            make(other, path, tmp_path / "out.onnx")
        make(model, path, tmp_path / "eight.onnx")
        with pytest.raises(WeatherError, match="eight bits already"):
            make(model, tmp_path / "eight.onnx", tmp_path / "out.onnx")
        with pytest.raises(ValueError, match="choose another name"):
            make(model, path, path)
    assert [p.name for p in tmp_path.iterdir()] == ["eight.onnx"] and "arithmetic" not in read_facts(path)["provenance"]


def test_weights_in_a_second_file(small, tmp_path):
    "Eight bits of a model whose weights lie beside it: one file, which needs no other."
    model, data, path = small
    export_model(model, tmp_path / "model.onnx", engines=("onnxruntime",), external=True)
    (tmp_path / "there").mkdir()
    found = quantise(model, tmp_path / "model.onnx", tmp_path / "there" / "eight.onnx", data, 4)
    one = quantise(model, path, tmp_path / "there" / "one.onnx", data, 4)
    assert read_facts(tmp_path / "there" / "eight.onnx")["external"] is None and found["tendency_error"] == one["tendency_error"]
    assert abs(found["size"] / one["size"] - 1) < 0.02  # of graph and weights together


def test_the_wrong_model(small, tmp_path):
    "One sentence, where a file would be run with the numbers of another model, or a model is dressed as another."
    model, data, path = small
    other = build_model("edge-dense", data.normalizer, data.grid, aux=("doy",), dims=(16, 24, 32)).eval()
    with pytest.raises(WeatherError, match="whose aux differ"):
        load_exported(other, path)
    dressed = {
        "in bfloat16": in_bfloat16(model),
        "in an engine": load_exported(model, path),
        "with rounding": with_rounding(model, data, 4),
    }
    for sentence, one in dressed.items():
        with pytest.raises(WeatherError, match=sentence):
            export_model(one, tmp_path / "out.onnx")
    with pytest.raises(WeatherError, match="give what `with_rounding` was given"):
        without_rounding(with_rounding(model, data, 4), build_model("edge-dense", data.normalizer, data.grid, dims=(8, 8, 8)))
    assert not any(tmp_path.iterdir())


def test_nonsense_has_an_answer(small):
    model, data, _ = small
    for ratio in (0, -1, 1, float("nan")):
        with pytest.raises(WeatherError, match="must be between 0 and 1"):
            prune(model, data, ratio)
    for few in (0, -1):
        with pytest.raises(WeatherError, match="take at least one"):
            sample_inputs(model, data, few)
    with pytest.raises(ValueError, match="cannot load .*test_compress.py"):
        sensitivity(__file__, sample_inputs(model, data, 2))


FULL = """
import resource, signal, sys
import test_compress as t
from microclimate.delivery.compress import quantise
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
data = t.WeatherData(t.walks(), batch_size=4)
model = t.build_model("edge-dense", data.normalizer, data.grid, aux=("solar",), dims=(16, 24, 32)).eval()
t.randomise_weights(model.net)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
quantise(model, sys.argv[1], sys.argv[2], data, 4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource")
def test_no_space_left_for_eight_bits(small, tmp_path):
    out = tmp_path / "eight.onnx"
    out.write_text("earlier")
    done = subprocess.run([sys.executable, "-c", FULL, small[2], out], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode != 0 and f"WeatherError: Cannot write {out}" in done.stderr, done.stderr[-1000:]
    assert out.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == ["eight.onnx"]


def test_the_whole_table(tmp_path):
    "run_export on a small model: all variants in all engines that take them."
    weather = open_weather("nature:5", variables=[*FEW], region=[62, 58, 5, 11], time=("2024-06-01", "2024-06-02"))
    model = build_model("edge-dense", Normalizer.fit(weather), regular_grid(62, 58, 5, 11, 0.25), aux=("solar",), dims=(16, 24, 32))
    torch.nn.init.normal_(model.net.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    save_model(model.eval(), tmp_path / "model", {})
    done = papermill("run_export.ipynb", tmp_path / "out", model=tmp_path / "model", source="nature:5", region=[62, 58, 5, 11],
                     start="2024-06-01", end="2024-06-14", spell_hours=None, holdout="2024-06-12/2024-06-14",
                     validate="2024-06-10/2024-06-11", epochs=1, rounding_epochs=1, rollout=[1], val_steps=2, max_val_windows=8,
                     calibration_samples=16, test_starts=3, lead_hours=3, rounds=1)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert {"model", "variant", "runtime", "parameters", "file_mb", "ms_per_step", "threads", "peak_mb", "rmse_3h_ratio",
            "tendency_error"} <= set(table.columns)
    table = table[table.threads == 1].set_index(["variant", "runtime"])
    eight = ("int8", "pruned-int8", "rounded-int8")
    wanted = {"torch": ("fp32", "bf16", "pruned"), "onnxruntime": ("fp32", *eight), "tract": ("fp32", "pruned")}
    assert {(name, runtime) for runtime, names in wanted.items() for name in names} <= set(table.index)
    assert table.parameters["pruned", "torch"] <= 0.7 * table.parameters["fp32", "torch"]
    assert table.tendency_error["int8", "onnxruntime"] < 0.05 and table.tendency_error["fp32", "tract"] < 1e-5
    assert table.peak_mb["fp32", "onnxruntime"] < table.peak_mb["fp32", "torch"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"table.csv", "tendency.csv", "skill.png", "int8.onnx", "rounded-int8.onnx"} <= set(manifest["files"])
    assert read_facts(tmp_path / "out" / "int8.onnx")["provenance"]["arithmetic"] == "int8"


def test_engines_that_are_not_there(tmp_path):
    "Said before anything is read or trained."
    done = papermill("run_export.ipynb", tmp_path / "out", engines=["abacus"])
    assert done.returncode != 0 and "Unknown engine 'abacus'" in done.stderr and not (tmp_path / "out" / "training").exists()
