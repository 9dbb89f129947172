"""The front door: what `import microclimate as mc` gives, what it costs, and that its examples run."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import microclimate as mc

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "microclimate"
DOOR = (
    "open_weather inspect_weather open_forecast load_model build_model save_model MODELS fit forecast rollout "
    "ensemble compare score Grid Batch WeatherError plot verify register_variable read_variables"
).split()
HEAVY = "torch pytorch_lightning cartopy matplotlib fsspec aiohttp eccodes cfgrib".split()


# the names


def test_the_names():
    assert sorted(mc.__all__) == sorted(DOOR) == sorted(mc._HOMES)
    assert set(DOOR) <= set(dir(mc))
    for name in DOOR:
        assert getattr(mc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'openweather'"):
        getattr(mc, "openweather")  # noqa: B009 -- a name that is not there


def test_no_name_is_a_module_at_the_same_level():
    modules = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert not modules & set(DOOR)


def test_type_checkers_see_the_same_names():
    "The imports below TYPE_CHECKING are those that `__getattr__` makes."
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for line in block.body:
        for alias in line.names:
            seen[alias.asname or alias.name] = (line.module, alias.name)
    homes = {}
    for name, (home, inside) in mc._HOMES.items():
        chapter, _, module = home.rpartition(".")
        homes[name] = (home, inside) if inside else (chapter, module)
    assert seen == homes
    assert (PACKAGE / "py.typed").is_file()


FUNCTIONS = [name for name in DOOR if inspect.isfunction(getattr(mc, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_annotated(name):
    signature = inspect.signature(getattr(mc, name))
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert not bare and signature.return_annotation is not inspect.Signature.empty, bare


# the examples


EXAMPLES = {name: getattr(mc, name) for name in DOOR if name not in ("MODELS", "plot")}
EXAMPLES |= {"microclimate": mc, "plot.weather_map": mc.plot.weather_map}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    "The example in each docstring gives what it says, in a folder of its own."
    monkeypatch.chdir(tmp_path)
    parser = doctest.DocTestParser()
    test = parser.get_doctest(EXAMPLES[name].__doc__, {"np": np}, name, None, None)
    assert test.examples, f"{name} has no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told = []
    runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)


def test_the_four_lines_of_the_readme():
    weather = mc.open_weather("nature")
    ahead = mc.forecast(mc.load_model("sfno-tiny"), weather, "2024-06-07", lead_hours=24)
    scores = mc.score(ahead, weather)
    figure = mc.plot.weather_map(ahead, "2t", lead_hours=24)
    assert ahead.sizes["lead_time"] == 24 and ahead.init_time.values[0] == np.datetime64("2024-06-07")
    assert 0 < scores["2t"].sel(metric="rmse")[-1] < 5 and figure.axes


# what an import costs


def run(code, *words):
    "Standard output of Python code in a process of its own."
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code, *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPORT = """
import sys, time
loaded = [name for name in {heavy!r} if name in sys.modules]
print(*loaded, f"{{time.process_time():.2f}}")
"""


def loads(code, heavy=HEAVY, *words):
    "Heavy packages that some code loads; the processor time is printed."
    *loaded, seconds = run(code + REPORT.format(heavy=heavy), *words).split()
    print(f"{code.strip()}: {seconds} s of processor time")
    return loaded


def test_the_package_alone_loads_nothing():
    assert not loads("import microclimate, microclimate as mc; dir(mc)", [*HEAVY, "numpy", "xarray"])


@pytest.mark.parametrize("module", ["errors", "variables", "files", "sun"])
def test_what_a_small_device_needs_is_numpy(module):
    assert not loads(f"import microclimate.{module}", [*HEAVY, "xarray", "pandas", "scipy"])


WEATHER = [f"weather.{path.stem}" for path in sorted((PACKAGE / "weather").glob("[a-z]*.py"))]


@pytest.mark.parametrize("module", ["provenance", "grid", "regrid", *WEATHER])
def test_no_torch_below_the_models(module):
    assert not loads(f"import microclimate.{module}")


def test_opening_a_file_loads_no_torch(tmp_path):
    time = np.datetime64("2024-06-01", "ns") + np.arange(24) * np.timedelta64(1, "h")
    axes = dict(time=time, latitude=np.linspace(62, 57, 21), longitude=np.linspace(4, 12, 33))
    field = np.random.default_rng(0).normal(285, 3, (24, 21, 33)).astype("float32")
    weather = xr.Dataset({"t2m": (tuple(axes), field, dict(units="K"))}, coords=axes)
    weather.to_netcdf(tmp_path / "weather.nc")
    code = "import sys, microclimate as mc; mc.open_weather(sys.argv[1])"
    assert not loads(code, HEAVY, str(tmp_path / "weather.nc"))
