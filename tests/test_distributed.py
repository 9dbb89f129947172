"Two processes that share every batch learn what one process learns."

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.grid import regular_grid
from microclimate.training.loader import WeatherData
from microclimate.models.registry import build_model
from microclimate.training.train import fit

SMALL = dict(dims=(8, 8, 16), layers=1, heads=2, blocks=1, d1=8)
RECIPE = dict(epochs=2, lr=4e-3, rollout=(1, 2), ema=0.9, progress=False, log_every=3, device="cpu")


@pytest.fixture(scope="module")
def data():
    grid, rng = regular_grid(61, 59.5, 6, 8.25, 0.25), np.random.default_rng(3)
    time = np.datetime64("2024-03-01", "ns") + np.arange(21 * 24) * np.timedelta64(1, "h")
    angle = np.radians(40 * grid.lon2d) - 2 * np.pi * (np.arange(len(time)) / 31)[:, None, None]
    wave = lambda mean, size, turn: (mean + size * np.sin(angle + turn) + 0.05 * size * rng.normal(size=angle.shape)).astype("float32")
    fields = {"2t": wave(278, 4, 0), "10u": wave(3, 5, 2), "msl": wave(101000, 700, 1)}
    ds = xr.Dataset({name: (("time", *grid.dims), x) for name, x in fields.items()}, grid.coords() | dict(time=time))
    return WeatherData(ds, steps=2, validate=3, batch_size=12, seed=5, max_val_windows=33, epoch_batches=10)


@pytest.fixture(scope="module")
def model(data): return build_model("sfno-tiny", data.normalizer, data.grid, aux=("solar",), seed=7, **SMALL)


@pytest.fixture(scope="module")
def alone(model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return fit(model, data, folder, **RECIPE), pd.read_csv(folder / "metrics.csv")


def apart(a, b): return max((p - q).detach().abs().max().item() for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(model, data, alone, strategy, tmp_path):
    together = fit(model, data, tmp_path, devices=2, strategy=strategy, **RECIPE)
    alone, *logs = *alone, pd.read_csv(tmp_path / "metrics.csv")
    for column in ("train/loss", "val/rmse", "val/persistence"):
        np.testing.assert_allclose(logs[1][column], logs[0][column], rtol=1e-4)
    assert apart(alone, together) < 1e-2 * apart(alone, model)
    last = logs[0].dropna().iloc[-1]
    assert last["val/rmse"] < 0.95 * last["val/persistence"]


def test_what_processes_cannot_share_is_refused(model, data, tmp_path):
    edge = build_model("edge-dense", data.normalizer, data.grid)
    with pytest.raises(WeatherError, match="batch normalisation"): fit(edge, data, tmp_path, devices=2, **RECIPE)
    with pytest.raises(WeatherError, match="a multiple of 5"): fit(model, data, tmp_path, devices=5, **RECIPE)


def test_another_network_with_the_same_weights_is_another_training(model, data, alone, tmp_path):
    fit(model, data, tmp_path, **RECIPE)
    other = build_model("sfno-tiny", data.normalizer, data.grid, aux=("solar",), seed=7, **SMALL | dict(heads=1))
    assert apart(model, other) == 0
    with pytest.raises(WeatherError, match="another training, which differs in model.config"): fit(other, data, tmp_path, **RECIPE)
