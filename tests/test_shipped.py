"""The model that ships: small, honest about its scores, and made by the training that is committed."""


import numpy as np
import pandas as pd
import pytest

from microclimate.models.baseline import Persistence
from microclimate.variables import variable
from microclimate.files import assets
from microclimate.weather.open import open_weather
from microclimate.scores.evaluate import compare
from microclimate.grid import NORWAY, interior, spells
from microclimate.training.loader import WeatherData
from microclimate.models.registry import build_model, load_model, read_config
from microclimate.models.rollout import forecast, from_source
from microclimate.training.train import fit

FOLDER = assets() / "models" / "sfno-tiny"


def config():
    return read_config(FOLDER)["provenance"]["config"]


def test_small_and_readable():
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 4e6
    assert {p.name for p in FOLDER.iterdir()} == {"weights.safetensors", "config.json", "README.md", "scores.csv"}
    assert "synthetic" in (FOLDER / "README.md").read_text().lower()


def test_card_scores_are_reproduced():
    "The held-out starts of the card, forecast again: RMSE within 2 % at every lead, for every channel."
    hour, starts = np.timedelta64(1, "h"), np.array(config()["test_starts"], "M8[ns]")
    weather = open_weather("nature", time=np.unique(starts[:, None] + np.arange(config()["lead_hours"] + 1) * hour))
    model = load_model("sfno-tiny")
    runs = [forecast(m, weather, starts, config()["lead_hours"], batch_size=8) for m in (model, Persistence(1))]
    table = compare(runs, weather, metrics=["rmse"])
    said = pd.read_csv(FOLDER / "scores.csv")
    key = ["model", "variable", "lead_hours", "metric"]
    both = table.merge(said[said.metric == "rmse"], on=key, suffixes=("", "_said"))
    assert len(both) == 2 * 14 * config()["lead_hours"]  # thirteen channels and the wind vector
    assert np.allclose(both.value, both.value_said, rtol=0.02)

    skill = table[(table.metric == "skill_persistence") & (table.model == "sfno-tiny")]
    skill = skill.pivot_table(index="variable", columns="lead_hours", values="value")
    beaten = (skill[range(3, 25)] > 0).all(axis=1)
    assert beaten.sum() >= 11, f"persistence wins somewhere for {', '.join(beaten.index[~beaten])}"
    assert (skill.loc[["2t", "msl", "z500", "t850"], 24] >= 0.3).all()


@pytest.mark.filterwarnings("ignore:After .* the air")
def test_a_week_stays_physical_and_a_boundary_bounds_its_error():
    starts, hour = np.array(["2025-01-10", "2025-06-01", "2025-10-01"], "M8[ns]"), np.timedelta64(1, "h")
    weather, model = open_weather("nature", time=np.unique(starts[:, None] + np.arange(169) * hour)), load_model("sfno-tiny")
    free = forecast(model, weather, starts, 168)
    driven = forecast(model, weather, starts, 168, from_source(weather, model.channels))
    for week in (free, driven):
        for name in model.channels:
            assert variable(name).low <= float(week[name].min()) and float(week[name].max()) <= variable(name).high, name
    mask = {"interior": interior(NORWAY)}
    table = compare([driven, forecast(Persistence(1), weather, starts, 168)], weather, metrics=["rmse"], mask=mask, samples=0)
    rmse = table[table.metric == "rmse"].pivot_table(index=["variable", "lead_hours"], columns="model", values="value").unstack()
    ratio = rmse["sfno-tiny"].loc[:, 121:].mean(axis=1) / rmse["persistence"].loc[:, 121:].mean(axis=1)
    assert (ratio.drop("ssrd") < 1).all(), ratio.round(2).to_dict()


def test_its_training_learns(tmp_path):
    "The committed recipe on a little of the same weather: the loss falls within a few steps."
    recipe = {k: config()[k] for k in ("lr", "weight_decay", "ema", "noise", "seed")}
    data = WeatherData(open_weather("nature", time=spells("2023-01-01", "2023-02-01", 3, 31)), batch_size=4, seed=0)
    model = build_model("sfno-tiny", data.normalizer, NORWAY, 1, read_config(FOLDER)["aux"], config()["seed"])
    fit(model, data, tmp_path, epochs=8, rollout=1, progress=False, device="cpu", log_every=3, warmup=0.2, **recipe)
    loss = pd.read_csv(tmp_path / "metrics.csv")["train/loss"].to_numpy()
    assert loss[-1] < 0.8 * loss[0]
