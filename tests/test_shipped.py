"""The model that ships: small, honest about its scores, and made by the training that is committed."""


import numpy as np
import pandas as pd

from microclimate.baseline import Persistence
from microclimate.core import assets
from microclimate.data import open_weather
from microclimate.evaluate import compare
from microclimate.grid import NORWAY, spells
from microclimate.loader import WeatherData
from microclimate.models import build_model, load_model, read_config
from microclimate.rollout import forecast
from microclimate.train import fit

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
    assert len(both) == 2 * 13 * config()["lead_hours"]
    assert np.allclose(both.value, both.value_said, rtol=0.02)

    skill = table[(table.metric == "skill_persistence") & (table.model == "sfno-tiny")]
    skill = skill.pivot_table(index="variable", columns="lead_hours", values="value")
    beaten = (skill[range(3, 25)] > 0).all(axis=1)
    assert beaten.sum() >= 11, f"persistence wins somewhere for {', '.join(beaten.index[~beaten])}"
    assert (skill.loc[["2t", "msl", "z500", "t850"], 24] >= 0.3).all()


def test_its_training_learns(tmp_path):
    "The committed recipe on a little of the same weather: the loss falls within a few steps."
    recipe = {k: config()[k] for k in ("lr", "weight_decay", "ema", "noise", "seed")}
    data = WeatherData(open_weather("nature", time=spells("2023-01-01", "2023-02-01", 3, 31)), batch_size=4, seed=0)
    model = build_model("sfno-tiny", data.normalizer, NORWAY, 1, read_config(FOLDER)["aux"], config()["seed"])
    fit(model, data, tmp_path, epochs=8, rollout=1, progress=False, device="cpu", log_every=3, warmup=0.2, **recipe)
    loss = pd.read_csv(tmp_path / "metrics.csv")["train/loss"].to_numpy()
    assert loss[-1] < 0.8 * loss[0]
