"""Folders of models, whole and damaged: what loads is what was saved, everything else is refused in one sentence."""

import json
import random

import numpy as np
import pytest
import torch

from microclimate.batch import Normalizer
from microclimate.errors import WeatherError
from microclimate.files import write_json
from microclimate.grid import regular_grid
from microclimate.models.registry import MODELS, build_model, load_model, read_config, save_model, shipped

SEED, COPIES = 20240601, 300
OTHER_VALUES = (None, True, -1, 0, 10**30, 1e400, float("nan"), "", "x", [], {}, [[]], ["2t"], {"a": 1}, "../../x")


@pytest.fixture(scope="module")
def model():
    grid = regular_grid(62, 60, 4, 7, 0.25, name="test")
    normalizer = Normalizer(("2t", "msl"), (285.0, 101000.0), (8.0, 900.0), (0.1, 0.1), 1)
    return build_model("edge-dense", normalizer, grid, aux=("solar",), seed=1).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory): return save_model(model, tmp_path_factory.mktemp("models") / "whole", dict(source="nature"))


def places(value, path=()):
    "Every place in a JSON value."
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def damage_config(text, rng, with_digest):
    config = json.loads(text)
    if not with_digest: del config["model_sha256"]
    *way, last = rng.choice([place for place in places(config) if place[0] != "provenance"])
    inside = config
    for key in way: inside = inside[key]
    if rng.random() < 0.2: del inside[last]
    else: inside[last] = rng.choice(OTHER_VALUES)
    return json.dumps(config).encode()


def damage_bytes(data, rng):
    data, at = bytearray(data), rng.randrange(len(data))
    kind = rng.choice(["cut", "flip", "zeros", "twice", "noise"])
    if kind == "cut": return bytes(data[:at])
    if kind == "twice": return bytes(data + data[at:])
    if kind == "flip": data[at] ^= 1 << rng.randrange(8)
    if kind == "zeros": data[at : at + 64] = bytes(len(data[at : at + 64]))
    if kind == "noise": data[at : at + 64] = rng.randbytes(len(data[at : at + 64]))
    return bytes(data)


def same_model(a, b):
    one, other = a.net.state_dict(), b.net.state_dict()
    same_weights = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    same_facts = (a.normalizer, a.history, a.aux, a.noise) == (b.normalizer, b.history, b.aux, b.noise)
    return same_weights and same_facts and a.grid.same(b.grid)


def attempt(copy):
    "The model of a folder, or the sentence of its refusal; anything else fails the test."
    try: return load_model(copy)
    except WeatherError as error:
        assert "\n" not in str(error) and str(copy) in str(error) and len(str(error)) < 600
        return str(error)


@pytest.mark.parametrize("with_digest", [True, False], ids=["today", "0.1.0"])
def test_damaged_folders(model, folder, with_digest, tmp_path):
    rng, refused = random.Random(SEED + with_digest), 0
    config, weights = (folder / "config.json").read_bytes(), (folder / "weights.safetensors").read_bytes()
    for _ in range(COPIES // 2):
        new = dict(config=config, weights=weights)
        kind = rng.choice(["values", "values", "values", "config", "weights"])
        if kind == "values": new["config"] = damage_config(config, rng, with_digest)
        else: new[kind] = damage_bytes(new[kind], rng)
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        (copy / "config.json").write_bytes(new["config"])
        (copy / "weights.safetensors").write_bytes(new["weights"])
        found = attempt(copy)
        refused += isinstance(found, str)
        if with_digest and not isinstance(found, str): assert same_model(found, model)
    assert refused > COPIES / 5


def test_weights_that_are_no_numbers_or_lie_elsewhere(model, folder, tmp_path):
    import copy
    broken = copy.deepcopy(model)
    next(broken.net.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(WeatherError, match="not finite"): load_model(save_model(broken, tmp_path / "nan", {}))
    (folder / "weights.safetensors").replace(tmp_path / "away")
    try:
        assert "no weights" in attempt(folder)
        (folder / "weights.safetensors").mkdir()
        assert "no weights" in attempt(folder)
        (folder / "weights.safetensors").rmdir()
    finally: (tmp_path / "away").replace(folder / "weights.safetensors")
    assert same_model(load_model(folder), model)


def test_weights_of_another_model_are_found(model, folder, tmp_path):
    other = build_model("edge-dense", model.normalizer, model.grid, aux=("solar",), seed=2)
    theirs = save_model(other, tmp_path / "theirs", {})
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = json.loads((theirs / "config.json").read_text())["weights_sha256"]
    write_json(config, theirs / "config.json")
    with pytest.raises(WeatherError, match="was changed"): load_model(theirs)


def test_a_model_saved_twice_keeps_its_neighbours(model, tmp_path):
    there = save_model(model, tmp_path / "mine", {}, card="# First")
    (there / "notes.txt").write_text("my own")
    save_model(model, there, {})
    assert (there / "notes.txt").read_text() == "my own" and not (there / "README.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_every_family_can_be_saved_and_loaded(model, tmp_path):
    for name in ("sfno-tiny", "gnn-tiny", "edge-dw", "climax-tiny"):
        assert name in MODELS
        made = build_model(name, model.normalizer, model.grid, history=2, aux=("doy", "lat"), noise=1)
        assert same_model(load_model(save_model(made, tmp_path / name, {})), made)


def test_shipped_models_say_their_digest():
    for name, where in shipped().items():
        assert len(read_config(where)["model_sha256"]) == 64
        assert np.isfinite(load_model(name).normalizer.mean).all()
