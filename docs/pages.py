"""Makes the site's pages from notebooks: executes each, takes nbdev's docs step, writes for Sphinx.

`make docs` runs `python docs/pages.py build/docs` and then Sphinx. A page is kept until its notebook,
the package or the locked environment changes, so only the first build executes everything.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

os.environ["IN_TEST"] = "1"  # nbdev executes notebooks without exporting them

from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.processors import FilterDefaults, clean_magics, rm_export
from nbdev.test import test_nb as run_cells

ROOT = Path(__file__).resolve().parents[1]
NBS, DOCS, PACKAGE = ROOT / "nbs", ROOT / "docs", ROOT / "microclimate"
# run notebooks that are executed here; run_forecast and run_compare keep outputs in the repository
EXECUTED = ("run_evaluate",)
# left out of the types in signatures
PACKAGES = "__main__|microclimate|numpy|xarray|pandas|torch|collections|pathlib"
TEXTS = {  # written pages that stand elsewhere in the repository, with their names on the site
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "microclimate/assets/README.md": "geography.md",
    "microclimate/assets/models/sfno-tiny/README.md": "sfno-tiny.md",
}


def notebooks():
    "Every notebook of the workbook, and those that are only pages."
    found = [*NBS.rglob("*.ipynb"), *DOCS.glob("*.ipynb")]
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def is_run(path):
    return path.stem.startswith("run_")


def place(path):
    "Where the page of a file of the repository stands on the site."
    within = path.relative_to(ROOT).as_posix()
    if within in TEXTS:
        return Path(TEXTS[within])
    return Path(within.removeprefix("nbs/").removeprefix("docs/"))


# from a notebook to a page


def execute(path, copy):
    "The notebook with the outputs of its cells, executed as `nbdev_test` or papermill does."
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copy)
    if is_run(path) and path.stem not in EXECUTED:
        return read_nb(path)
    if is_run(path):
        import papermill

        parameters = {"out_dir": str(copy.with_suffix(""))}
        papermill.execute_notebook(path, copy, parameters, cwd=NBS, progress_bar=False)
    else:
        passed, _ = run_cells(copy, skip_flags=["slow", "gpu"], basepath=ROOT, save=True)
        if not passed:
            raise RuntimeError(f"{path.relative_to(ROOT)} does not run: see `nbdev_test` on it")
    return read_nb(copy)


def keep_source(cell):
    "In place of nbdev's `rm_export`: exported code stays, folded; hidden code and bare imports go."
    if cell.cell_type != "code":
        return
    directives = cell.directives_.keys()
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    bare = re.fullmatch(r"(\s*(import|from) .*(\n[ \t)].*)*|\s*#.*|\s*)*", code)
    if directives & {"hide", "default_exp"} or ("export" in directives and bare):
        del cell["source"]
    elif "export" in directives:
        cell.metadata["tags"] = ["hide-input"]


class DocsStep(FilterDefaults):
    "nbdev's docs step; exported source is kept, and magics, of which there are none, not looked for."

    def base_procs(self):
        steps = [step for step in super().base_procs() if step is not clean_magics]
        return [keep_source if step is rm_export else step for step in steps]


def module_of(path):
    "The module that a notebook describes; empty for run notebooks and other pages."
    if path.stem == "front_door":
        return "microclimate"
    if is_run(path) or NBS not in path.parents:
        return ""
    chapter = path.parent.relative_to(NBS).parts
    return ".".join(("microclimate", *chapter, path.stem.split("_", 1)[1]))


def symbol(cell, module):
    "A `show_doc` cell as Sphinx's description of the symbol: searchable, in the index, linked to."
    [output] = cell.outputs
    _, heading, signature, *text = "".join(output["data"]["text/markdown"]).split("\n\n", 3)
    text = [re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", part, flags=re.M) for part in text]
    name = heading.removeprefix("### ")
    kind = "method" if "." in name else "class" if name[0].isupper() else "function"
    signature = re.sub(rf"\b(?:{PACKAGES})\.(?:\w+\.)*(\w+)", r"\1", signature)
    word = "class" if kind == "class" else "def"
    signature = re.sub(r"(?<=^```python\n)def \w+", f"{word} {name.rpartition('.')[2]}", signature)
    if kind == "class":
        signature = signature.replace(")->None:", ")")
    lines = [f"::::{{py:{kind}}} {name}", f":module: {module}", "", signature, "", *text, "::::"]
    return mk_cell("\n".join(lines), "markdown")


@cache
def homes():
    "Exported name to its full name, for links; short words also mean other things."
    index = {}
    exec((PACKAGE / "_modidx.py").read_text(encoding="utf-8"), index)
    names = {}
    for module, symbols in index["d"]["syms"].items():
        names |= {full.removeprefix(f"{module}."): full for full in symbols}
    return {name: full for name, full in names.items() if re.search(r"[A-Z_.]", name)}


def link(text):
    "Names of the package in backticks become links to where they are described."

    def replace(found):
        full = homes().get(found[1].removesuffix("()"))
        return f"{{py:obj}}`{found[1]} <{full}>`" if full else found[0]

    return re.sub(r"(?<![`}\\[])`([\w.]+(?:\(\))?)`(?![`\\]])", replace, text)


def linked(cell):
    "A text cell with its links; fenced code is left as it is."
    parts = re.split(r"(^```.*?^```)", cell.source, flags=re.M | re.S)
    cell.source = "".join(part if part.startswith("```") else link(part) for part in parts)
    return cell


def arrange(cells, module):
    "Descriptions before their folded source, text with links, no directive left."
    folded = []
    for cell in cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            continue  # papermill's: where this build writes to
        cell.metadata.pop("execution", None)
        if cell.source.startswith("#| echo: false\n#| output: asis\nshow_doc("):
            yield linked(symbol(cell, module))
            continue
        yield from folded
        folded = []
        if cell.cell_type == "markdown":
            yield linked(cell)
            continue
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        if "hide-input" in cell.metadata.get("tags", []):
            folded = [cell]
        else:
            yield cell
    yield from folded


def merged(cells):
    "Folded source that follows folded source opens with it."
    last = None
    for cell in cells:
        if last and "hide-input" in cell.metadata.get("tags", []):
            last.source += f"\n\n\n{cell.source}"
            continue
        last = cell if "hide-input" in cell.metadata.get("tags", []) else None
        yield cell


def page(book, path):
    "What Sphinx reads: title, summary and the notebook's cells."
    DocsStep()(book)
    front, warning, *cells = book.cells
    facts = json.loads(json.dumps(book.frontmatter_))
    title = mk_cell(f"# {facts['title']}\n\n*{facts['description']}*", "markdown")
    module = module_of(path)
    head = [title]
    if module:
        head.append(mk_cell(f"```{{py:module}} {module}\n```", "markdown"))
    book.cells = [*head, *merged(arrange(cells, module))]
    book.metadata = {"kernelspec": book.metadata["kernelspec"]}
    return book


# the whole site


def fingerprint(path):
    "Changes with the notebook, the package, the lock and this file."
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("requirements*.lock"), Path(__file__)]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def moved(text, file, source):
    "The text with its links as they are on the site; files that are not pages are copied."

    def replace(found):
        target = Path(os.path.normpath(file.parent / found[1]))
        if not target.is_relative_to(ROOT):
            return found[0]
        where = place(target)
        if target.is_file() and target.suffix not in (".md", ".ipynb"):
            (source / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, source / where)
        relative = os.path.relpath(where, place(file).parent)
        return f"]({relative}{found[2] or ''})"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", replace, text)


def write(book, path, build):
    "The page in the tree that Sphinx reads."
    target = build / "source" / place(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = moved(cell.source, path, build / "source")
    write_nb(book, target)


def make(path, build):
    "Writes a notebook's page, from the store if it is there, and returns the seconds it took."
    began = time.monotonic()
    where = place(path)
    kept = build / "store" / where.with_name(f"{where.stem}-{fingerprint(path)}.ipynb")
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        book = page(execute(path, build / "executed" / where), path)
        for stale in kept.parent.glob(f"{where.stem}-*.ipynb"):
            stale.unlink()
        write_nb(book, kept)
    write(read_nb(kept), path, build)
    return time.monotonic() - began


def make_all(paths, build, workers=2):
    "Pages of all notebooks, each in a process of its own, with a line of progress for each."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nbdev.test", "torch", "xarray", "matplotlib.pyplot"])
    failed = []
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        pending = {pool.submit(make, path, build): path for path in paths}
        for number, done in enumerate(as_completed(pending), 1):
            name = place(pending[done])
            error = done.exception()
            state = f"failed: {error}" if error else f"{done.result():.1f} s"
            print(f"{number:3d}/{len(paths)}  {name}  {state}", flush=True)
            failed += [str(name)] if error else []
    if failed:
        sys.exit(f"no site: {', '.join(failed)} failed")


def copy_texts(source):
    "The written pages. README is the first page, over the map of the site."
    for file in [*DOCS.glob("*.md"), *(ROOT / name for name in TEXTS)]:
        text = moved(file.read_text(encoding="utf-8"), file, source)
        (source / place(file)).write_text(text, encoding="utf-8")
    (source / "rules.md").write_text(rules_page(), encoding="utf-8")
    readme = ROOT / "README.md"
    readme = moved(readme.read_text(encoding="utf-8"), readme, source)
    index = source / "index.md"
    index.write_text(f"{readme}\n{index.read_text(encoding='utf-8')}", encoding="utf-8")
    shutil.copy(DOCS / "conf.py", source)
    shutil.copytree(DOCS / "static", source / "static")


# the rules by which fields are read


def table(head, rows):
    "A table in Markdown; the cells are text."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def code(words):
    return ", ".join(f"`{word}`" for word in words)


def by_meaning(names):
    "Rows of (ours, theirs) from a table of theirs to ours."
    ours = dict.fromkeys(names.values())
    return [(f"`{name}`", code(n for n in names if names[n] == name)) for name in ours]


def grib_rows():
    from microclimate.weather.grib import GRIB_TABLE

    for row in GRIB_TABLE:
        keys = [code(row.codes), code(row.numbers), code(row.params)]
        yield (f"`{row.name}`", row.place, row.process, row.units, *keys)


def sum_rows():
    from microclimate.weather.times import SUM_RULES

    for row in SUM_RULES:
        known_by = "; ".join(f"{fact}: `{mark}`" for fact, mark in row.known_by.items())
        hours = "" if row.hours is None else f"{row.hours:g}"
        yield row.product, known_by, row.rule.replace("_", " "), hours


def rules_page():
    "The page of rules, from the tables that `open_weather` reads."
    from microclimate.variables import VARIABLES
    from microclimate.weather import identify

    own = {alias: row.name for row in VARIABLES.values() for alias in row.aliases}
    products = {"The table of variables": own} | identify.PRODUCT_NAMES
    names = [(product, *row) for product, theirs in products.items() for row in by_meaning(theirs)]
    parts = {
        "standard": table(["ours", "CF standard names"], by_meaning(identify.STANDARD_NAMES)),
        "names": table(["product", "ours", "names"], names),
        "vertical": table(["counts", "coordinates"], by_meaning(identify.VERTICAL)),
        "units": table(["UDUNITS", "spellings"], by_meaning(identify.METEOROLOGY)),
        "grib": table(["ours", "place", "process", "units", "GRIB 2", "GRIB 1", "paramId"], grib_rows()),
        "sums": table(["product", "known by", "its sums", "hours"], sum_rows()),
    }
    text = (DOCS / "rules.md").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="folder to build in")
    parser.add_argument("--draft", action="store_true", help="execute only the notebooks named")
    parser.add_argument("notebooks", type=Path, nargs="*", help="these pages only (default: all)")
    asked = parser.parse_args()
    named = [path.resolve() for path in asked.notebooks]
    build = asked.build.resolve()
    source = build / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    copy_texts(source)
    if not asked.draft:
        named = named or notebooks()
        print(f"{len(named)} notebooks; new and changed ones are executed (all: about ten minutes)")
    make_all(named, build)
    if asked.draft:  # last: nbdev's shell takes the place of this module
        for path in sorted({*notebooks()} - {*named}):
            write(page(read_nb(path), path), path, build)


if __name__ == "__main__":
    main()
