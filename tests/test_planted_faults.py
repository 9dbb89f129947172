"""What planted faults (tests/mutants.py) had to be found by, where it is not a matter of one notebook."""

import subprocess

import pytest

from microclimate import provenance
from microclimate.weather.identify import conversion


def test_provenance_tells_changed_code(tmp_path, monkeypatch):
    "A forecast made with code that was not committed says so."

    def git(*words):
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        subprocess.run(["git", "-C", tmp_path, *author, *words], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert provenance.provenance()["git_dirty"] is False and len(provenance.provenance()["git_commit"]) == 40
    (tmp_path / "code.py").write_text("2")
    assert provenance.provenance()["git_dirty"] is True


@pytest.mark.parametrize(("name", "units", "factor"), [
    ("10u", "km/h", 1 / 3.6), ("10u", "knots", 0.514444), ("msl", "hPa", 100), ("w500", "hPa/h", 100 / 3600),
    ("tp", "kg m-2 s-1", 3600), ("tp", "m s-1", 3.6e6), ("tcc", "%", 0.01), ("2q", "g/kg", 1e-3), ("ssrd", "kJ m-2", 1e3),
])  # fmt: skip
def test_factors_of_units(name, units, factor):
    assert conversion(name, units)[0] == pytest.approx(factor, rel=1e-5)
