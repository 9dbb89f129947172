"""Imports go one way, by the table of chapters in CONTRIBUTING.md, and only to packages that settings.ini names."""

import ast
import re
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "microclimate"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.stem.startswith("_") and "assets" not in path.parts
}
MODULES = list(FILES)
OWNERS = packages_distributions()  # reads every package's list of files: once is enough

TOP = "top level"
CHAPTER_ROW = re.compile(r"^\| (top level|`\w+`) \| .* \| (.*) \|$", flags=re.M)


def chapter_table():
    "Chapter to the chapters it may import, as CONTRIBUTING.md says."
    rows = CHAPTER_ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    names = lambda text: {name.strip("` ") for name in text.split(",")} - {"–"}
    return {chapter.strip("`"): names(allowed) for chapter, allowed in rows}


MAY_IMPORT = chapter_table()


def reading_order():
    "Dotted module name to its place in the order of reading, from the numbers of the notebooks."
    places = {}
    for path in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb"):
        number, name = path.stem.split("_", 1)
        places[".".join([*path.relative_to(ROOT / "nbs").parts[:-1], name])] = int(number)
    return places


ORDER = reading_order()


def chapter_of(module):
    return module.split(".")[0] if "." in module else TOP


def imports(path):
    "Dotted names that the file imports, each with whether it stands at the top level of the file."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        yield from ((name, node in tree.body) for name in names)


def rooms_seen(module):
    "Modules of this package that a module imports."
    for name, _ in imports(FILES[module]):
        parts = name.split(".")[1:] if name.startswith("microclimate.") else []
        found = [".".join(parts[:end]) for end in (2, 1) if ".".join(parts[:end]) in FILES]
        yield from found[:1]


def requirements():
    "The packages of settings.ini as two sets: what the package needs, and what some extra adds."
    config = ConfigParser(delimiters="=", interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    facts = config["DEFAULT"]
    named = {key: {Requirement(text).name for text in facts[key].split()} for key in facts if key.endswith("requirements")}
    return set(map(canonicalize_name, named["requirements"])), set(map(canonicalize_name, set().union(*named.values())))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    "Into the chapters that the table names, and in its own chapter only to what is read before it."
    chapter = chapter_of(module)
    for seen in set(rooms_seen(module)) - {module}:
        other = chapter_of(seen)
        if other == chapter:
            assert ORDER[seen] < ORDER[module], f"{module} imports {seen}, which is read after it"
        else:
            allowed = MAY_IMPORT[chapter]
            assert other in allowed, f"{module} imports {seen}, and may import only {allowed}"


OF_EXTRAS = {"training.lightning", "workbook"}  # imported inside functions alone


@pytest.mark.parametrize("module", MODULES)
def test_imported_packages_are_declared(module):
    "At the top of a module: requirements. In functions, and in the modules of extras: extras too."
    needed, with_extras = requirements()
    for name, top in imports(FILES[module]):
        package = name.split(".")[0]
        if package == "microclimate" or package in sys.stdlib_module_names:
            continue
        names = {canonicalize_name(owner) for owner in OWNERS.get(package, [package])}
        declared = needed if top and module not in OF_EXTRAS else with_extras
        assert names & declared, f"{module} imports {package}, which settings.ini does not name"


@pytest.mark.parametrize("module", MODULES)
def test_modules_of_extras_are_imported_late(module):
    at_the_top = {name.removeprefix("microclimate.") for name, top in imports(FILES[module]) if top}
    assert not at_the_top & OF_EXTRAS


def test_every_module_is_seen():
    assert len(MODULES) == 71
    assert set(map(chapter_of, MODULES)) == set(MAY_IMPORT)


def test_chapters_have_no_circle():
    below = {chapter: set(allowed) for chapter, allowed in MAY_IMPORT.items()}
    for _ in MAY_IMPORT:  # as often as a path can be long
        for chapter, seen in below.items():
            below[chapter] = seen.union(*(below[name] for name in seen))
    assert not [chapter for chapter, seen in below.items() if chapter in seen]


def test_the_table_names_no_arrow_that_nobody_uses():
    used = {chapter: set() for chapter in MAY_IMPORT}
    for module in MODULES:
        used[chapter_of(module)] |= set(map(chapter_of, rooms_seen(module)))
    idle = {chapter: allowed - used[chapter] for chapter, allowed in MAY_IMPORT.items()}
    assert not any(idle.values()), f"CONTRIBUTING.md allows what no module imports: {idle}"
