"""The site: every notebook becomes a page, no text is lost, no network, no outdated command."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages.py"
WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = ["nbs/05_grid.ipynb", "nbs/run_forecast.ipynb"]  # code, tables and pictures


def notebooks():
    return sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if "checkpoint" not in path.stem)


def run(*command):
    "What the command says, run in the root with this package and one thread."
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    "The whole site, of which two notebooks are executed: nbdev's docs step, then Sphinx."
    folder = tmp_path_factory.mktemp("draft")
    said = run(sys.executable, PAGES, "--draft", folder, *SHOWN)
    html = folder / "html"
    run(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", folder / "source", html)
    return folder / "source", html, said


def words(text):
    "The words in their order, without the targets of links."
    text = re.sub(r"\{py:obj\}`([^`<]+) <[^>]+>`", r"`\1`", text)
    return " ".join(re.findall(r"\w+", re.sub(r"\]\([^)]*\)", "]", text)))


def texts(book):
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


def exported(book):
    "Public functions and classes that the notebook exports."
    for cell in book.cells:
        if cell.cell_type == "code" and re.match(r"#\| *export\b", cell.source):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                    yield node.name


def test_docs_step_takes_every_notebook(draft):
    source, _, said = draft
    assert "imports and other code" not in said, "imports need a cell of their own"
    pages = {path.relative_to(source) for path in source.rglob("*.ipynb")}
    assert {path.relative_to(ROOT / "nbs") for path in notebooks()} <= pages
    assert len(notebooks()) >= 63


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_page_keeps_text_and_describes_names(draft, path):
    book = nbformat.read(path, as_version=4)
    page = nbformat.read(draft[0] / path.relative_to(ROOT / "nbs"), as_version=4)
    kept = words("\n".join(texts(page)))
    lost = [text for text in texts(book) if words(text) not in kept]
    assert not lost, f"text of the notebook that its page has lost: {lost}"
    shown = "\n".join(cell.source for cell in page.cells)
    assert "#|" not in shown and "show_doc(" not in shown
    described = set(re.findall(r"^::::\{py:\w+\} (?:\w+\.)?(\w+)$", shown, flags=re.M))
    missing = set(exported(book)) - described
    assert not missing, f"exported, and not described: {missing}"


def test_comments_of_arguments_are_shown(draft):
    page = (draft[1] / "05_grid.html").read_text(encoding="utf-8")
    assert "degrees, centres of the outermost cells" in re.sub(r"<[^>]+>", "", page)


def test_formulas_need_no_script(draft):
    page = (draft[1] / "evaluation.html").read_text(encoding="utf-8")
    assert "<math " in page and not re.search(r"<script[^>]*mathjax", page, flags=re.I)


def test_executed_pages_show_outputs(draft):
    html = draft[1]
    assert "(64, 112)" in (html / "05_grid.html").read_text(encoding="utf-8")
    assert list((html / "_images").glob("*.png")), "pictures are there"


def test_pages_ask_no_network(draft):
    html = draft[1]
    assert (html / "searchindex.js").exists()
    loads = r"(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b[^>]*\bhref|@import|url\()"
    outside = rf"""{loads}\W{{0,3}}((?:https?:)?//[^"')\s]+)"""
    files = [path for path in html.rglob("*") if path.suffix in (".html", ".css")]
    asked = {path.name: re.findall(outside, path.read_text(encoding="utf-8")) for path in files}
    asked = {name: found for name, found in asked.items() if found}
    assert not asked, f"pages ask the network for {asked}"


# the written pages


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


def test_readme_shows_the_lines_that_run():
    "Those of test_front_door.py."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ran = (ROOT / "tests" / "test_front_door.py").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    lines = [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip()]
    assert len(lines) == 5 and all(line in ran for line in lines)


def parameters(path):
    "The names that papermill may set."
    cells = nbformat.read(path, as_version=4).cells
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {node.targets[0].id for node in ast.parse(cell.source).body}


def commands(text):
    "Every papermill command of the page: notebook, names that it sets."
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S):
        one = r"^papermill (nbs/\w+\.ipynb)(.*?)(?=^papermill|\Z)"
        for notebook, rest in re.findall(one, block, flags=re.M | re.S):
            mapping = re.search(r"-y '(\{.*?\})'", rest, flags=re.S)
            names = json.loads(mapping[1]) if mapping else {}
            yield notebook, set(names) | set(re.findall(r"-p (\w+)", rest))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_written_pages_name_what_exists(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for notebook, names in commands(text):
        unknown = names - parameters(ROOT / notebook)
        assert not unknown, f"{path.name}: {notebook} lacks the parameters {unknown}"


def test_page_of_rules_is_made_from_the_tables():
    said = run(sys.executable, "-c", "import sys; sys.path.insert(0, 'docs'); import pages; print(pages.rules_page())")
    assert "{{" not in said and "| `2t` | 2 m | instant | K |" in said
    assert "`grid_eastward_wind`" in said and "| WRF | `10u` | `U10` |" in said
