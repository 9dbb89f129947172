"""The TypeScript modules: what tsc --strict accepts and Node decodes is what the NetCDF holds, to half a unit of the last decimal."""

import json
import re
import shutil
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from microclimate.errors import WeatherError
from microclimate.variables import CHANNELS, disk_name
from microclimate.provenance import save_dataset
from microclimate.weather.open import open_weather
from microclimate.weather.forecasts import open_forecast
from microclimate.models.registry import load_model
from microclimate.delivery.payload import build_forecast_module, pack, unpack
from microclimate.models.rollout import forecast_to_file

START = np.datetime64("2024-06-08", "ns")
TYPESCRIPT = "typescript@5.9.3"

CHECK = """
import { at, decode, forecast, type Field } from "./auroraForecast.js";
import { decode as decodePredictions, predictions } from "./auroraForecastPredictions.js";

// @ts-expect-error -- a flag is no text: the types are not any
const text: string = forecast.synthetic;
// @ts-expect-error -- provenance is not in the light module
predictions.provenance;

async function all(fields: Record<string, Field>): Promise<Record<string, number[]>> {
  const numbers: Record<string, number[]> = {};
  for (const [name, field] of Object.entries(fields)) numbers[name] = [...(await decode(field))];
  return numbers;
}

const first: Field = forecast.fields["2t"]!;
console.log(JSON.stringify({
  forecast: await all(forecast.fields),
  history: await all(forecast.history),
  predictions: [...(await decodePredictions(predictions.fields["2t"]!))],
  map: [...at(first, await decode(first), 0, 1)],
  latitude: [...(await decode(forecast.cells.latitude))],
  starts: forecast.initTimes.map((time) => new Date(time).getTime()),
  leads: forecast.leadHours,
}));
"""

COMMAND = """
import sys
from microclimate.delivery.payload import main
if __name__ == "__main__": sys.exit(main())
"""  # what pip writes for a console command

FULL = """
import resource, signal, sys
from microclimate.delivery.payload import build_forecast_module
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # bytes that any file may have from here on
build_forecast_module(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A forecast file of the shipped model, the same with a hole, and the hours before it."
    folder = tmp_path_factory.mktemp("payload")
    weather = open_weather("nature", time=(START - np.timedelta64(2, "h"), START))
    ahead = forecast_to_file(load_model("sfno-tiny"), weather, START, 3, folder / "forecast.nc").load()
    ahead["2t"][0, 1, 4:9, 6:20] = np.nan
    save_dataset(ahead, folder / "holes.nc", json.loads(ahead.attrs["provenance"]))
    save_dataset(weather, folder / "before.nc", {})
    return folder


@pytest.fixture(scope="session")
def tsc(tmp_path_factory):
    "TypeScript's compiler, fetched into a temporary folder."
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no node and npm on this machine: the modules are read by Python alone")
    folder = tmp_path_factory.mktemp("typescript")
    fetch = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", TYPESCRIPT]
    try:
        fetched = subprocess.run([*fetch, "--prefix", folder], capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        fetched = False
    if not fetched:
        pytest.skip(f"npm cannot fetch {TYPESCRIPT} here: the modules are read by Python alone")
    return folder / "node_modules" / "typescript" / "bin" / "tsc"


def module(path):
    "The object that a module exports."
    return json.loads(re.search(r"^export const \w+: \w+ = (\{.*\});$", path.read_text(encoding="utf-8"), re.M | re.S)[1])


def fields(path, stride):
    "The file's own numbers, read by netCDF4."
    with netCDF4.Dataset(path) as file:
        whole = {n: np.asarray(file[disk_name(n)][:], "f8") for n in CHANNELS}
    return {n: values[None, :, ::stride, ::stride] for n, values in whole.items()}


def assert_rounded(numbers, truth, decimals):
    "Equal to half a unit of the last decimal, and whole numbers of that unit."
    numbers, unit = np.array(numbers, "f8").reshape(truth.shape), 10.0**-decimals
    assert np.array_equal(np.isnan(numbers), np.isnan(truth)) and np.nanmax(np.abs(numbers - truth)) <= unit / 2 * (1 + 1e-9)
    assert np.allclose(numbers / unit, np.rint(numbers / unit), rtol=1e-12, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_python_reads_back(made, tmp_path, stride):
    paths = build_forecast_module(made / "forecast.nc", tmp_path, stride)
    assert [path.name for path in paths] == ["auroraForecast.ts", "auroraForecastPredictions.ts"]
    for path in paths:
        packed = module(path)["fields"]
        for name, truth in fields(made / "forecast.nc", stride).items():
            assert_rounded(unpack(packed[name]), truth, packed[name]["decimals"])


@pytest.mark.parametrize(("file", "stride", "decimals"), [("forecast.nc", 1, None), ("holes.nc", 2, {"msl": 2, "2t": 4})])
def test_typescript_reads_back(made, tsc, tmp_path, file, stride, decimals):
    forecast = made / file
    whole, _ = build_forecast_module(forecast, tmp_path, stride, decimals, history=made / "before.nc")
    (tmp_path / "check.ts").write_text(CHECK)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--noUncheckedIndexedAccess", "--outDir", "out"]
    done = subprocess.run(["node", tsc, *options, "check.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    read = json.loads(subprocess.run(["node", "out/check.js"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    exact = {name: field["decimals"] for name, field in module(whole)["fields"].items()}
    future, past = fields(forecast, stride), fields(made / "before.nc", stride)
    for name in CHANNELS:
        assert_rounded(read["forecast"][name], future[name], exact[name])
        assert_rounded(read["history"][name], past[name], exact[name])
        decoded = np.array(read["forecast"][name], "f8"), unpack(module(whole)["fields"][name]).ravel()
        assert np.array_equal(*decoded, equal_nan=True)  # to the last bit
    assert read["predictions"] == read["forecast"]["2t"]
    assert_rounded(read["map"], future["2t"][0, 1], exact["2t"])
    assert np.allclose(read["latitude"], np.arange(72.75, 56.9, -0.25)[::stride])
    assert read["starts"] == [START.astype("M8[ms]").astype(int)] and read["leads"] == [1, 2, 3]


def test_a_real_forecast_on_a_projected_grid(shared, tmp_path):
    "MET Norway's AROME: two-dimensional coordinates, and a file that carries no provenance of ours."
    source = shared / "arome_metcoop_2015" / "arome_metcoop_red_default2_5km_20150824_00.nc"
    truth = open_forecast(source, ["2t"])
    whole = module(build_forecast_module(source, tmp_path, 3, variables=["2t"])[0])
    assert_rounded(unpack(whole["fields"]["2t"]), truth["2t"].values[..., ::3, ::3].astype("f8"), 1)
    assert np.abs(unpack(whole["cells"]["latitude"]) - truth["latitude"].values[::3, ::3]).max() <= 0.5001e-5
    assert whole["cells"]["crs"]["grid_mapping_name"] == "lambert_conformal_conic" and whole["provenance"] == {} and not whole["synthetic"]


def run(*args):
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True)


def test_the_command(made, tmp_path):
    command = tmp_path / "build_forecast_module"
    command.write_text(COMMAND)
    done = run(command, made / "forecast.nc", tmp_path / "web", "--stride", 2, "--decimals", "2t=0,msl=-2", "--variables", "2t,msl")
    assert done.returncode == 0, done.stderr
    packed = module(tmp_path / "web" / "auroraForecastPredictions.ts")["fields"]
    assert {name: field["decimals"] for name, field in packed.items()} == {"2t": 0, "msl": -2}
    assert str(tmp_path / "web" / "auroraForecast.ts") in done.stdout
    wrong = run(command, made / "forecast.nc", tmp_path / "none", "--stride", 0)
    assert wrong.returncode == 1 and re.fullmatch(r"build_forecast_module: stride is 0: it must be .*\n", wrong.stderr)
    assert not (tmp_path / "none").exists()


def test_a_changed_file_is_refused(made, tmp_path):
    shutil.copy(made / "forecast.nc", tmp_path)
    with netCDF4.Dataset(tmp_path / "forecast.nc", "a") as file: file["t2m"][0, 0, 0] = 300
    with pytest.raises(WeatherError, match="was changed after it was written"):
        build_forecast_module(tmp_path / "forecast.nc", tmp_path / "web")
    assert not (tmp_path / "web").exists()


def with_changes(made, path, change):
    "The forecast of another centre: without a checksum, and changed."
    with xr.load_dataset(made / "forecast.nc", decode_timedelta=True) as ds:
        for key in ("provenance", "content_sha256", "header_sha256"): del ds.attrs[key]
        change(ds).to_netcdf(path)
    return path


def test_titles_end_no_script(made, tmp_path):
    title = "</script><script>alert(1)</script>\u2028\u2029 `${x}` */"
    foreign = with_changes(made, tmp_path / "foreign.nc", lambda ds: ds.assign_attrs(title=title, attribution=title))
    for path in build_forecast_module(foreign, tmp_path / "web"):
        text = path.read_text(encoding="utf-8")
        assert "<" not in text.split("\nexport const ")[1] and "\u2028" not in text and "\u2029" not in text
        assert module(path)["title"] == module(path)["attribution"] == title


def test_numbers_that_a_page_cannot_hold(made, tmp_path):
    gone = with_changes(made, tmp_path / "gone.nc", lambda ds: ds.assign(t2m=ds["t2m"] * np.nan))
    with pytest.raises(WeatherError, match="2t in .* missing values"): build_forecast_module(gone, tmp_path / "web")
    for number in (1e18, 1e300, np.inf, -np.inf):
        with pytest.raises(WeatherError, match="does not fit into 1 decimals"): pack(np.array([280.0, number]), ("x",), 1)
    exact = np.array([-4.4e14, 4.4e14, np.nan, 0.1])
    assert np.array_equal(unpack(pack(exact, ("x",), 1)), exact, equal_nan=True)


def test_no_space_left(made, tmp_path):
    path = tmp_path / "auroraForecast.ts"
    path.write_text("earlier")
    done = run("-c", FULL, made / "forecast.nc", tmp_path)
    assert done.returncode != 0 and f"WeatherError: Cannot write {path}" in done.stderr
    assert path.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == [path.name]
