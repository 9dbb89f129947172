"""Planted faults: each is put into a copy of the package, and a test must find it. Run by hand, not in CI.

    python tests/mutants.py            # all, and the tests on the package as it is
    python tests/mutants.py sun grid   # those whose room or text has one of the words
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds for the tests of one fault; what hangs is found
LINKED = ("tests", "pyproject.toml", "settings.ini", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")


def read_faults(words):
    "Faults of the list, those that have one of the words in their room or text."
    text = Path(__file__).with_name("data").joinpath("mutants.toml").read_text(encoding="utf-8")
    found = []
    for room, faults in tomllib.loads(text).items():
        for fault in faults:
            fault = dict(room=room, tests=[f"nbs/{room}.ipynb"]) | fault
            if not words or any(word in str(fault) for word in words):
                found.append(fault)
    return found


def module_of(room):
    "The module that a notebook exports: scores/00_verification is scores/verification."
    return Path("microclimate", *re.sub(r"(^|/)\d\d_", r"\1", room).split("/")).with_suffix(".py")


def copy_project(folder, room):
    "The package in a folder of its own; all that is not changed is linked."
    ignore = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "microclimate", folder / "microclimate", ignore=ignore)
    (folder / "microclimate" / "assets").symlink_to(ROOT / "microclimate" / "assets")
    for name in LINKED:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    changed = folder / "nbs" / f"{room}.ipynb"
    changed.unlink()
    shutil.copy(ROOT / "nbs" / f"{room}.ipynb", changed)


def plant(folder, room, old, new):
    "Put a fault into the module and into the notebook that it comes from."
    path = folder / module_of(room)
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise SystemExit(f"{path.name} has {old!r} {text.count(old)} times: mend the list.")
    path.write_text(text.replace(old, new), encoding="utf-8")
    path = folder / "nbs" / f"{room}.ipynb"
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if "#| export" in source:
            cell["source"] = source.replace(old, new)
    path.write_text(json.dumps(book), encoding="utf-8")


def passes(folder, test) -> bool:
    "Does one test pass in a folder? A notebook, or what pytest takes."
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    if not test.endswith(".ipynb"):
        import pytest

        os.chdir(folder)
        return pytest.main(["-qx", "-p", "no:cacheprovider", *test.split()]) == 0
    from nbdev.test import test_nb

    return test_nb(folder / test, skip_flags=["slow", "gpu"], do_print=False)[0]


def run_in_child(folder, tests) -> bool:
    "Do tests pass? In a process of their own, which a fault may not leave hanging."
    child = os.fork()
    if child:
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(io.StringIO()):
        try:
            right = all(passes(folder, test) for test in tests)
        except BaseException:
            right = False
    os._exit(0 if right else 1)


def try_fault(fault=None, tests=()) -> bool:
    "Do the tests pass with the fault, or without any?"
    with tempfile.TemporaryDirectory() as name:
        folder, room = Path(name), fault["room"] if fault else "00_errors"
        copy_project(folder, room)
        if fault:
            plant(folder, room, fault["old"], fault["new"])
        return run_in_child(folder, tests or fault["tests"])


def preload():
    "Import what all tests need once, and the package not at all."
    sys.path.insert(0, str(ROOT))
    import eccodes, matplotlib.pyplot, nbdev.test, pytest, scipy.stats, torch, xarray  # noqa: E401, F401, I001
    import microclimate.compute, pytorch_lightning  # noqa: E401, F401 -- the first mends torchvision for the second

    for name in [name for name in sys.modules if name.partition(".")[0] == "microclimate"]:
        del sys.modules[name]
    sys.path.remove(str(ROOT))


def main(words):
    preload()
    faults, survivors = read_faults(words), []
    for test in dict.fromkeys(test for fault in faults for test in fault["tests"]):
        if not try_fault(tests=[test]):
            raise SystemExit(f"{test} fails without any fault: mend it first.")
    for fault in faults:
        start = time.monotonic()
        survives = try_fault(fault)
        if survives:
            survivors.append(fault)
        verdict = "SURVIVES" if survives else "found"
        print(f"{verdict:9}{time.monotonic() - start:5.0f} s  {fault['room']}: {fault['old']} -> {fault['new']}", flush=True)
    print(f"{len(faults) - len(survivors)} of {len(faults)} faults are found")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main(sys.argv[1:])
