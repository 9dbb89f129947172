"""`papermill nbs/run_NAME.ipynb`, typed in a terminal: a pseudo-terminal, because papermill behaves otherwise behind a pipe."""

import ast
import os
import pty
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from microclimate.parameters import read_parameters
from microclimate.workbook import set_up

ROOT = Path(__file__).parents[1]
RUNS = sorted((ROOT / "nbs").glob("run_*.ipynb"))


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    "A folder with the papermill that `make environment` sets up."
    environment = tmp_path_factory.mktemp("environment")
    (environment / "bin").mkdir()
    shutil.copy(Path(sys.executable).with_name("papermill"), environment / "bin")
    set_up(environment)
    return environment / "bin"


@pytest.fixture
def workbook(tmp_path):
    "A copy of the run notebooks, so that nobody's outputs are replaced."
    copy = tmp_path / "workbook"
    (copy / "nbs").mkdir(parents=True)
    for path in RUNS:
        shutil.copy(path, copy / "nbs")
    shutil.copy(ROOT / "settings.ini", copy)
    return copy


def typed(commands, folder, *words):
    "What a command shows when it is typed in a terminal, and its exit status."
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | dict(PATH=path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(words[0], words, environment)
    shown = b"".join(iter(lambda: read(terminal), b""))
    _, status = os.waitpid(child, 0)
    return shown.decode(), os.waitstatus_to_exitcode(status)


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the child has closed its end
        return b""


def test_the_environment_has_this_papermill():
    script = Path(sys.executable).with_name("papermill").read_text(encoding="utf-8")
    if "microclimate" not in script:
        pytest.skip("this environment was not built by `make environment`: its papermill is the plain one")
    compile(script, "papermill", "exec")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_checks_its_parameters(path):
    "The table of kinds knows each of them and takes the defaults as they are; the check stands below the parameters."
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    [at] = [k for k, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    defaults = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(code[at].source).body}
    assert read_parameters(defaults, defaults) == defaults
    assert "check_parameters(globals())" in code[at + 1].source or "begin_run(globals())" in code[at + 1].source


def test_the_main_job_is_the_simplest_notebook():
    "Twelve imported names at most, no function of its own, steps of one to five lines."
    book = nbformat.read(ROOT / "nbs" / "run_forecast.ipynb", as_version=4)
    code = [cell.source for cell in book.cells if cell.cell_type == "code" and "tags" not in cell.metadata]
    tree = ast.parse("\n".join(code))
    imported = [alias.name for line in tree.body if isinstance(line, ast.ImportFrom | ast.Import) for alias in line.names]
    assert len(imported) <= 12 and not any(isinstance(line, ast.FunctionDef | ast.Lambda | ast.IfExp) for line in ast.walk(tree))
    assert all(len(cell.splitlines()) <= 5 for cell in code[1:])


EVERY_RUN = """
import os, sys
from microclimate.workbook import papermill
for folder, names in ((".", [f"nbs/{name}" for name in sys.argv[1:]]), ("nbs", sys.argv[1:])):
    os.chdir(folder)
    for name in names:
        sys.argv[1:] = [name, "--prepare-only", "-p", "out_dir", f"from {folder}"]
        try: papermill()
        except SystemExit as end: assert not end.code, name
"""


def test_every_run_has_a_place_for_its_executed_copy(commands, workbook):
    "Started from the root and from nbs/, in one process, because papermill takes seconds to be imported; nothing is computed."
    names = [path.name for path in RUNS]
    shown, status = typed(commands, workbook, sys.executable, "-c", EVERY_RUN, *names)
    assert status == 0, shown
    for name in names:
        assert shown.count(f"outputs/{Path(name).stem}/{name}") == 2
        book = nbformat.read(workbook / "outputs" / Path(name).stem / name, as_version=4)
        assert any("injected-parameters" in cell.metadata.get("tags", []) and 'out_dir = "from nbs"' in cell.source for cell in book.cells)


def test_a_path_that_is_given_is_kept(commands, workbook):
    shown, status = typed(commands, workbook, "papermill", "nbs/run_forecast.ipynb", "mine.ipynb", "--prepare-only")
    assert status == 0, shown
    assert (workbook / "mine.ipynb").is_file() and not (workbook / "outputs").exists()


def test_other_notebooks_are_run_as_ever(commands, tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    book.metadata.kernelspec = dict(display_name="python3", language="python", name="python3")
    nbformat.write(book, tmp_path / "run_away.ipynb")
    shown, status = typed(commands, tmp_path, "papermill", "run_away.ipynb")
    assert status == 2 and "Missing argument 'OUTPUT_PATH'" in shown
    shown, status = typed(commands, tmp_path, "papermill", "run_away.ipynb", "done.ipynb", "-p", "unknown", "1")
    assert status == 0 and (tmp_path / "done.ipynb").is_file(), shown


def test_wrong_parameters_stop_before_a_kernel_starts(commands, workbook):
    shown, status = typed(commands, workbook, "papermill", "nbs/run_forecast.ipynb", "-p", "lead_hour", "12")
    assert status == 1 and "no parameter 'lead_hour': did you mean 'lead_hours'?" in shown and "Traceback" not in shown
    assert not list(workbook.rglob("run_forecast/*"))


def test_the_main_job_says_what_it_made(commands, workbook):
    "A short one; its last cell is seen in the terminal, and so is the sentence of an error."
    words = ["papermill", "nbs/run_forecast.ipynb", "-p", "lead_hours", "3", "-p", "region", "[62, 57, 4, 12]", "-p", "model", "none"]
    shown, status = typed(commands, workbook, *words)
    assert status == 0, shown
    assert "outputs/run_forecast" in shown and "forecast.nc" in shown
    assert (workbook / "outputs" / "run_forecast" / "forecast.nc").is_file()
    shown, status = typed(commands, workbook, *words, "-p", "model", "sfno-gigantic")
    assert status == 1 and "Error: Unknown model 'sfno-gigantic'" in shown and "Traceback" not in shown
