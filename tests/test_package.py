"""Package facts: what the files say of the package, and what the installed package and its notebooks are."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest

import microclimate

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
RUNS = [path for path in NOTEBOOKS if path.stem.startswith("run_")]
ROOMS = [path for path in NOTEBOOKS if path not in RUNS]
PACKAGE = ROOT / "microclimate"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("_") and "assets" not in path.parts)


def facts():
    config = ConfigParser(delimiters="=", interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def read(path):
    return nbformat.read(path, as_version=4)


def code(book):
    "The notebook's code without its magics."
    return "\n".join(re.sub(r"^[%!].*$", "", cell.source, flags=re.M) for cell in book.cells if cell.cell_type == "code")


def parameters(book):
    "Name to value of the cell that papermill replaces."
    [cell] = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    lines = ast.parse(cell.source).body
    odd = [ast.unparse(line) for line in lines if not (isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name))]
    assert not odd, f"papermill knows only parameters written as `name = value`, one a line, and not {odd}"
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


# the package


def test_version_is_one():
    assert microclimate.__version__ == distribution("microclimate").version == facts()["version"]


def test_changelog_knows_the_version():
    assert f"## [{facts()['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_console_scripts():
    scripts = distribution("microclimate").entry_points.select(group="console_scripts")
    folder = Path(sys.executable).parent
    for script in scripts:
        assert callable(script.load())
        assert (folder / script.name).exists()
    for name in ("nbdev_export", "nbdev_test", "nbdev_clean"):
        assert (folder / name).exists(), "`make test-environment` makes it"


def pins(name):
    "Package to version of a lock."
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if not line.startswith(("#", "-r "))]
    odd = [line for line in found if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd, f"one `name==version` a line, without a local version or an address, not {odd}"
    return {normal(line): line.partition("==")[2] for line in found}


def normal(requirement):
    "The name of a package as pip compares it."
    name = re.split(r"[<>=!~\[]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(*extras):
    "What settings.ini asks for."
    keys = ("requirements", *(f"{extra}_requirements" for extra in extras))
    return {normal(name) for key in keys for name in facts()[key].split()}


def test_locks_pin_every_requirement_once():
    lean, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    extras = [key.removesuffix("_requirements") for key in facts() if key.endswith("_requirements")]
    assert wanted("train", "export", "notebook") <= set(lean)
    assert wanted(*extras) <= set(lean) | set(dev)
    assert not set(lean) & set(dev)


def test_the_lean_lock_is_lean():
    heavy = {"pyqt6", "transformers", "wandb", "playwright", "torchvision", "mlflow-skinny", "nbdev"}
    assert not heavy & set(pins("requirements.lock"))
    assert heavy <= set(pins("requirements-dev.lock"))


def test_wheel_carries_modules_and_assets(tmp_path):
    "Built from a copy, because setuptools leaves its build folder where it builds."
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "microclimate", copy / "microclimate", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, copy]
    subprocess.run(build, check=True, capture_output=True, text=True)
    [wheel] = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(copy).as_posix() for path in (copy / "microclimate").rglob("*") if path.is_file()}
    assert any(name.startswith("microclimate/assets/") for name in wanted)
    assert wanted <= inside, f"missing from the wheel: {sorted(wanted - inside)}"


def test_kernel_is_this_environment():
    "Run notebooks name the kernel `python3`, and that must not be some other Python of the user's."
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    assert Path(spec.resource_dir).is_relative_to(sys.prefix)


# modules and notebooks


def test_every_notebook_and_module_is_seen():
    assert (len(RUNS), len(ROOMS), len(MODULES)) == (8, 71, 71)


@each(MODULES)
def test_module_comes_from_its_notebook(path):
    head = re.search(r"File to edit: (?:\.\./)+nbs/(\S+\.ipynb)", path.read_text(encoding="utf-8"))
    assert head, f"{path.name} was not exported by nbdev: write it in a notebook"
    notebook = ROOT / "nbs" / head[1]
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    assert notebook.is_file() and re.search(rf"^#\| default_exp {name}$", code(read(notebook)), flags=re.M)


@each(ROOMS)
def test_room_exports_its_module(path):
    name = re.search(r"^#\| default_exp ([\w.]+)$", code(read(path)), flags=re.M)[1].split(".")
    assert path.relative_to(ROOT / "nbs").parts[:-1] == tuple(name[:-1])
    assert re.fullmatch(rf"\d\d_{name[-1]}", path.stem) and PACKAGE.joinpath(*name).with_suffix(".py").is_file()


def test_notebooks_are_numbered_from_nought():
    for folder in {path.parent for path in ROOMS}:
        numbers = sorted(int(path.stem[:2]) for path in ROOMS if path.parent == folder)
        assert numbers == list(range(len(numbers))), f"{folder.name}: {numbers}"


@each(NOTEBOOKS)
def test_notebook_is_clean(path):
    book = read(path)
    nbformat.validate(book)
    wanted = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    if path in RUNS:  # papermill runs it, nbdev_test must not; as metadata, which JupyterLab does not show
        wanted["nbdev"] = {"skip_exec": "true"}
    assert book.metadata == wanted
    for cell in book.cells:
        assert set(cell.metadata) <= {"tags"}, f"cell {cell.id} carries metadata {set(cell.metadata)}: run nbdev_clean"
        assert cell.get("execution_count") is None
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    if path.stem in ("run_forecast", "run_compare"):  # whose pictures and tables a reader on the web should see
        assert len(json.dumps(outputs)) < 900_000 and not any(output.output_type == "error" for output in outputs)
    else:
        assert not outputs, "only run_forecast and run_compare keep outputs"


@each(NOTEBOOKS)
def test_notebook_has_a_title(path):
    "And nothing else: nbdev's docs step drops whatever else stands in that cell."
    titles = [cell.source for cell in read(path).cells[:2] if cell.cell_type == "markdown"]
    wanted = r"# \S[^\n]*\n\n> \S[^\n]*"
    assert titles and re.fullmatch(wanted, titles[0]), "the title cell is `# Title` and `> one line of summary`"


@each(RUNS)
def test_run_notebook_is_a_recipe(path):
    book = read(path)
    wanted = {"source", "out_dir", "seed", "device"} if "open_weather(" in code(book) else {"out_dir"}
    assert wanted <= set(parameters(book))
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    defined = [node.name for node in ast.walk(ast.parse(code(book))) if isinstance(node, definitions)]
    assert not defined, f"a run notebook calls the package and defines nothing: {defined} belongs into a module"


# the repository


def tracked():
    "Every text file that git keeps."
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a binary asset, or a file deleted but not yet committed


def test_no_machine_path_and_no_registry_host():
    folders = [re.escape(f"{folder}/") for folder in {Path.home(), ROOT.parent} if len(folder.parts) > 1]
    hosts = [re.escape(".".join(parts)) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))]
    pattern = re.compile(rf"(?<![\w.~-])(?:{'|'.join(folders)})|(?:{'|'.join(hosts)})")
    found = [f"{name}: {match[0]}" for name, text in tracked() for match in pattern.finditer(text)]
    assert not found, f"written on one machine, true on no other: {found}"


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S))
    assert set(re.findall(r"^make (\w+)", commands, flags=re.M)) <= targets
    for name in set(re.findall(r"nbs/[\w/]+\.ipynb", text)):
        assert (ROOT / name).is_file(), f"README names {name}"
    for notebook, rest in re.findall(r"^papermill (nbs/\w+\.ipynb)(.*)$", commands, flags=re.M):
        unknown = set(re.findall(r"-p (\w+)", rest)) - set(parameters(read(ROOT / notebook)))
        assert not unknown, f"{notebook} lacks parameters that README sets: {unknown}"
    for notebook, words in re.findall(r"^papermill (nbs/\w+\.ipynb).*?-y '(\{.*\})'", commands, flags=re.M):
        unknown = set(json.loads(words)) - set(parameters(read(ROOT / notebook)))
        assert not unknown, f"{notebook} lacks parameters that README sets: {unknown}"
