"""A reader's first hour: JupyterLab opens every notebook in a real browser, and runs the main one from top to bottom."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest

from microclimate.workbook import set_up

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
MAIN = ROOT / "nbs" / "run_forecast.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: JupyterLab is not opened in a browser")

TOKEN = secrets.token_hex()
QUIET = [  # a browser that talks to this machine only
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SETTINGS = {  # JupyterLab asks for no news, and keeps every cell on the page, so that cells can be counted
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
DONE = """() => {  // a cell that waits shows [*]; one that never ran, because another failed before it, shows [ ]
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.innerText);
    return document.querySelector('.jp-Dialog') || /\\d/.test(prompts[0]) && !prompts.some(prompt => prompt.includes('*'));
}"""


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    "A copy of what a run needs, so that the repository stays as it is."
    copy = tmp_path_factory.mktemp("browser") / "workbook"
    (copy / "outputs").mkdir(parents=True)
    shutil.copytree(ROOT / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("settings.ini", "README.md"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def lab(workbook):
    "The address of a JupyterLab server with settings of its own, ended with the tests."
    home = workbook.with_name("home")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = home / "environment"  # as `make environment` sets one up
    (environment / "bin").mkdir(parents=True)
    shutil.copy(Path(sys.executable).with_name("papermill"), environment / "bin")
    set_up(environment)
    own = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
    env = os.environ | {f"JUPYTER_{name}_DIR": str(home / folder) for name, folder in own.items()}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    env |= {"JUPYTER_CONFIG_PATH": str(environment / "etc" / "jupyter"), "PYTHONPATH": str(ROOT)}
    env |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={workbook}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={TOKEN}", "--ServerApp.terminals_enabled=False"]
    command += [f"--LabApp.app_settings_dir={environment / 'share' / 'jupyter' / 'lab' / 'settings'}"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    address = f"http://127.0.0.1:{port}"
    with (home / "server.log").open("w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        try:
            wait_for(address, server, home / "server.log")
            yield address
        finally:
            server.terminate()  # JupyterLab ends its kernels
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def ask(address, method="GET"):
    "The server's answer, read as JSON."
    with urlopen(Request(address, method=method, headers={"Authorization": f"token {TOKEN}"}), timeout=30) as answer:
        return json.loads(answer.read() or "null")


def wait_for(address, server, log, seconds=60):
    "Returns once the server answers."
    for _ in range(seconds):
        assert server.poll() is None, log.read_text()
        try:
            return ask(f"{address}/api/status")
        except OSError:
            time.sleep(1)
    pytest.fail(f"JupyterLab did not answer within {seconds} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def window(lab):
    "JupyterLab in a browser, which must ask nobody but this machine."
    from playwright.sync_api import sync_playwright

    outside = []
    with sync_playwright() as play, play.chromium.launch(executable_path=CHROMIUM, args=QUIET) as chromium:
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.on("request", lambda request: outside.append(request.url) if not request.url.startswith((lab, "data:", "blob:")) else None)
        page.goto(f"{lab}/lab/tree/nbs?reset&token={TOKEN}")
        yield page
    assert not outside, f"the page asks the network for {outside}"


@pytest.fixture
def page(window, lab, tmp_path):
    "The same window for every test; each leaves a picture of its last state, no open notebook and no kernel."
    yield window
    window.screenshot(path=tmp_path / "last.png")
    for session in ask(f"{lab}/api/sessions"):
        ask(f"{lab}/api/sessions/{session['id']}", method="DELETE")
    window.goto(f"{lab}/lab/tree/nbs?reset")


def open_notebook(page, path):
    "Opens the notebook as a reader does, from the list of files, and returns it as read from the file."
    book = nbformat.read(path, as_version=4)
    if (folder := path.parent.relative_to(ROOT / "nbs")) != Path():
        page.locator(".jp-DirListing-item", has_text=folder.name).first.dblclick()
    page.locator(".jp-DirListing-item", has_text=path.name).dblclick()
    page.locator(".jp-Notebook .jp-Cell").nth(len(book.cells) - 1).wait_for(state="attached", timeout=60_000)
    return book


def test_every_notebook_is_seen():
    assert len(NOTEBOOKS) == 79


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyterlab_shows(page, path):
    book = open_notebook(page, path)
    assert page.locator(".jp-Notebook .jp-Cell").count() == len(book.cells)
    title = next(cell.source for cell in book.cells if cell.cell_type == "markdown").splitlines()[0].removeprefix("# ")
    page.locator(".jp-RenderedMarkdown h1", has_text=title).first.wait_for(timeout=30_000)
    assert page.locator(".jp-Dialog").count() == 0, page.locator(".jp-Dialog").inner_text()


def test_make_lab_opens_with_the_readme(page, lab):
    [target] = re.findall(r"default_url=(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    page.goto(f"{lab}{target}?reset")
    page.locator(".jp-MarkdownViewer h1", has_text="microclimate").wait_for(timeout=60_000)
    page.locator(".jp-DirListing-item", has_text="outputs").wait_for(timeout=30_000)


def test_a_notebook_that_is_only_read_stays_as_it_was(page, workbook):
    "What JupyterLab would write after two minutes, it is made to write at once."
    path = workbook / "nbs" / "run_train.ipynb"
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    open_notebook(page, ROOT / "nbs" / path.name)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=60_000)
    page.locator(".jp-Notebook").first.click()
    page.keyboard.press("Control+s")
    for _ in range(30):
        if path.stat().st_mtime_ns != written:
            break
        time.sleep(1)
    assert path.stat().st_mtime_ns != written, "JupyterLab has not saved"
    assert path.read_bytes() == before


@pytest.mark.skipif(not MAIN.exists(), reason="run_forecast.ipynb is not written yet")
def test_main_job_runs_from_top_to_bottom(page, workbook):
    book = open_notebook(page, MAIN)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=60_000)  # without a kernel, running does nothing
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(DONE, timeout=300_000)
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    errors = page.locator('.jp-Dialog, [data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    ran = list(range(1, 1 + sum(cell.cell_type == "code" for cell in book.cells)))
    assert [prompt.strip() for prompt in prompts] == [f"[{number}]:" for number in ran], errors
    assert page.locator(".jp-OutputArea-output img").count() > 3, "maps and curves are drawn"
    written = {file.name for file in (workbook / "outputs" / "run_forecast").iterdir()}
    assert {"forecast.nc", "scores.csv", "manifest.json"} <= written
