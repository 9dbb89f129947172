"""Imports go one way: a module sees the rooms below it, never those above, and only packages that settings.ini names."""

import ast
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "microclimate").rglob("*.py") if not path.stem.startswith("_") and "assets" not in path.parts)

# What a module may import, and with it all that those may import.
MAY_IMPORT = {
    "core": "",
    "sun": "",
    "classic": "",
    "runner": "sun classic",
    "grid": "core",
    "nature": "core grid sun",
    "read": "core grid",
    "standard": "core grid read",
    "data": "core grid nature standard",
    "forecasts": "data",
    "climate": "core grid",
    "regrid": "core grid",
    "batch": "core grid sun",
    "loader": "data batch",
    "net": "",
    "spectral": "net",
    "sfno": "net batch spectral",
    "mesh": "grid batch",
    "gnn": "net grid batch mesh",
    "edge": "net batch",
    "climax": "net batch",
    "baseline": "batch",
    "aurora": "batch grid",
    "aurora_fast": "core",
    "models": "sfno gnn edge climax baseline aurora",
    "transfer": "models",
    "pretrained": "data models regrid rollout aurora_fast",
    "rollout": "batch grid",
    "members": "rollout",
    "foundry": "aurora rollout",
    "physics": "core grid batch",
    "loss": "core grid batch physics",
    "optim": "core",
    "lora": "models",
    "recipe": "loader rollout loss optim models",
    "train": "recipe",
    "trials": "train plot evaluate compress",
    "pairs": "core grid climate",
    "events": "pairs",
    "ensembles": "pairs",
    "spectra": "pairs",
    "evaluate": "events ensembles spectra",
    "stations": "data pairs",
    "benchmark": "evaluate models",
    "guide": "benchmark pretrained payload",
    "maps": "core grid",
    "plot": "maps",
    "scorecards": "plot",
    "compress": "train transfer export",
    "export": "batch models runner",
    "payload": "forecasts",
    "shard": "data rollout models evaluate",
    "serve": "data rollout models evaluate shard",
    "monitor": "data rollout models evaluate shard serve",
}


def below(module):
    "Every room that `module` may see."
    direct = MAY_IMPORT[module].split()
    return set(direct).union(*map(below, direct))


def imports(path):
    "Dotted names that the file imports, each with whether it stands at the top level of the file."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "microclimate" + (f".{node.module}" if node.module else "") if node.level else node.module
            names = [f"{start}.{alias.name}" for alias in node.names] if start == "microclimate" else [start]
        yield from ((name, node in tree.body) for name in names)


def requirements():
    "The packages of settings.ini as two sets: what the package needs, and what some extra adds."
    config = ConfigParser(delimiters="=", interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    facts = config["DEFAULT"]
    named = {key: {Requirement(text).name for text in facts[key].split()} for key in facts if key.endswith("requirements")}
    return set(map(canonicalize_name, named["requirements"])), set(map(canonicalize_name, set().union(*named.values())))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert module in MAY_IMPORT, f"microclimate.{module} has no line in MAY_IMPORT: say there what it may import"
    seen = {name.split(".")[1] for name, _ in imports(ROOT / "microclimate" / f"{module}.py") if name.startswith("microclimate.")}
    above = sorted(seen - below(module))
    assert not above, f"microclimate.{module} imports {above}, and may import {sorted(below(module))}"


@pytest.mark.parametrize("module", MODULES)
def test_imported_packages_are_declared(module):
    "What stands at the top of a module is a requirement; what a function imports may be an extra."
    needed, with_extras = requirements()
    owners = packages_distributions()
    for name, top in imports(ROOT / "microclimate" / f"{module}.py"):
        package = name.split(".")[0]
        if package == "microclimate" or package in sys.stdlib_module_names:
            continue
        names = {canonicalize_name(owner) for owner in owners.get(package, [package])}
        assert names & (needed if top else with_extras), f"microclimate.{module} imports {package}, which settings.ini does not name"


def test_every_module_is_seen():
    assert len(MODULES) == 51


def test_the_table_has_no_circle():
    for module in MAY_IMPORT:
        assert module not in below(module)
