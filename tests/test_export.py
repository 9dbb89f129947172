"""Exported models: all families in both engines, and forecasts from the file alone that are those of torch."""

import contextlib
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import tract
import xarray as xr

from microclimate.device import netcdf3
from microclimate.errors import WeatherError
from microclimate.batch import Normalizer
from microclimate.variables import CHANNELS
from microclimate.provenance import open_saved, provenance, save_dataset, verify, with_cf
from microclimate.weather.open import open_weather
from microclimate.delivery.export import export_model, randomise_weights, synthetic_inputs
from microclimate.grid import regular_grid
from microclimate.models.registry import MODELS, build_model, load_model
from microclimate.models.rollout import forecast
from microclimate.device.runner import Runner, load_engine, read_facts, read_start
from microclimate.device.runner import forecast_onnx

ALL = ("z_sfc", "lsm", "lat", "lon", "solar", "doy")
USUAL = load_model("sfno-tiny").normalizer
NORMAL = Normalizer(CHANNELS, USUAL.mean, tuple(0.03 * std for std in USUAL.std), (0.1,) * 13, 1)  # no random forecast leaves the bounds
START = np.datetime64("2025-01-10", "ns")


def shaken(name, grid, **overrides):
    model = build_model(name, NORMAL, grid, aux=ALL, **overrides)
    randomise_weights(model.net)
    return model.eval()


@pytest.mark.parametrize("name", ["edge-dw", "edge-dense", "gnn-tiny", "sfno-tiny", "climax-tiny"])
def test_both_engines_answer_as_torch(name, tmp_path):
    model = shaken(name, regular_grid(62, 60, 4, 7, 0.125), history=2)
    for engine, off in export_model(model, tmp_path / "model.onnx").items():
        assert off["largest"] < 2e-5 and off["tendency"] < 1e-5, engine


@pytest.mark.skipif("MICROCLIMATE_SLOW" not in os.environ, reason="takes half an hour and 8 GB: set MICROCLIMATE_SLOW to run it")
@pytest.mark.parametrize("size", [(64, 112), (256, 256)])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_all_presets_answer_as_torch(name, size, tmp_path):
    grid = regular_grid(60 + 0.01 * (size[0] - 1), 60, 5, 5 + 0.01 * (size[1] - 1), 0.01)
    engines = ("onnxruntime",) if "full" in name or name == "climax" else ("onnxruntime", "tract")
    assert set(export_model(shaken(name, grid), tmp_path / "model.onnx", engines)) == set(engines)


def test_the_whole_globe(tmp_path):
    "Its spectral layers are products with more indices than those of a region."
    globe = regular_grid(87.1875, -87.1875, 0, 354.375, 5.625)
    small = dict(layers=1, blocks=1, dims=(8, 8, 8), heads=2, modes=(4, 2, 1))
    off = export_model(shaken("sfno-tiny", globe, transform="spherical", **small), tmp_path / "model.onnx")
    assert max(found["largest"] for found in off.values()) < 2e-5


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    "The shipped model and a small one as files, and the weather that they start from."
    folder = tmp_path_factory.mktemp("week")
    model = load_model("sfno-tiny")
    weather = open_weather("nature", time=np.array([START]))
    save_dataset(weather, folder / "weather.nc", provenance(source="nature"))
    weather.to_netcdf(folder / "classic.nc", format="NETCDF3_64BIT")
    export_model(model, folder / "sfno.onnx")
    export_model(build_model("edge-dense", model.normalizer, model.grid, aux=model.aux), folder / "edge.onnx")
    return folder, model, weather


@pytest.mark.filterwarnings("ignore:After .* the air")
def test_a_week_from_the_file_is_that_of_torch(week):
    folder, model, weather = week
    want = forecast(model, weather, START, 168)
    for engine in ("onnxruntime", "tract"):
        runner = Runner(folder / "sfno.onnx", engine)
        states, time, still, *_ = read_start(folder / "weather.nc", runner)
        hours = 168 if engine == "onnxruntime" else 24
        for k, (_, y) in enumerate(runner.rollout(states, time, still, hours)):
            off = max(abs(y[0, i] - want[n].values[0, k]).max() / model.normalizer.std[i] for i, n in enumerate(model.channels))
            assert off < 1e-4 * (k + 1), f"{engine}, hour {k + 1}"


COMMAND = r"""
import re, sys
from microclimate.device.runner import main
main(sys.argv[1:])
assert not {"torch", "xarray", "pandas", "scipy", "netCDF4", "onnx"} & set(sys.modules), "a heavy library was imported"
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024)  # getrusage would count the parent's memory
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ["onnxruntime", "tract"])
def test_a_day_on_a_small_device(engine, week, tmp_path):
    "From two files to a third, by a process without torch, in less than 200 MB."
    folder = week[0]
    words = [str(folder / "edge.onnx"), str(folder / "classic.nc"), str(tmp_path / "day.nc"), "--engine", engine]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 200, "MB"
    assert verify(tmp_path / "day.nc")["engine"] == engine
    with open_saved(tmp_path / "day.nc") as day:
        assert day.sizes["lead_time"] == 24 and day.init_time.values[0] == START and "2t" in day


RUST = Path(__file__).parents[1] / "examples" / "rust"


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("rustc"), reason="needs Linux and rustc")
def test_a_step_in_rust(week, tmp_path):
    "The program of examples/rust on tract's library: the same numbers as in Python."
    library = next(Path(tract.__file__).parent.glob("*.so"))
    links = ["-L", str(library.parent), "-C", f"link-arg=-l:{library.name}", "-C", f"link-arg=-Wl,-rpath,{library.parent}"]
    build = ["rustc", "--edition", "2021", "-O", "--cfg", 'feature="library"', RUST / "src" / "main.rs", "-o", tmp_path / "step"]
    subprocess.run([*build, *links], check=True)
    path, fields = week[0] / "edge.onnx", synthetic_inputs(week[1], 1)
    words = []
    for name, field in zip(("x", "aux"), fields):
        field.numpy().tofile(tmp_path / name)
        words.append(f"{tmp_path / name}={','.join(map(str, field.shape))}")
    run = lambda *words: subprocess.run([tmp_path / "step", path, tmp_path / "y", *words], capture_output=True, text=True)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    y = np.fromfile(tmp_path / "y", "float32").reshape(1, 13, *fields[0].shape[2:])
    numbers = [f.numpy() for f in fields]
    assert np.array_equal(y, load_engine(path, "tract")(*numbers)) and abs(y - load_engine(path)(*numbers)).max() < 1e-5
    assert run(words[0]).stderr == "the model takes 2 inputs, 1 were given\n" and run(words[0] + "0").returncode == 1


@pytest.mark.parametrize("kind", ["NETCDF3_64BIT", "NETCDF4"])
def test_packed_numbers(kind, week, tmp_path):
    "Whole numbers with a scale, and gaps that are a number, mean the same in both kinds of file."
    runner, weather = Runner(week[0] / "edge.onnx"), week[2]
    packed = {"2t": dict(dtype="int16", scale_factor=0.01, add_offset=280.0, _FillValue=-32000)}
    weather.to_netcdf(tmp_path / "packed.nc", format=kind, encoding=packed)
    assert abs(read_start(tmp_path / "packed.nc", runner)[0][0, 0, 0] - weather["2t"].values[0]).max() < 0.006
    for name, encoding in (("whole.nc", packed), ("float.nc", {"2t": dict(_FillValue=-999.0)})):
        weather.assign({"2t": weather["2t"].where(weather.latitude > 60)}).to_netcdf(tmp_path / name, format=kind, encoding=encoding)
        with pytest.raises(ValueError, match="2t in .* has missing values"):
            read_start(tmp_path / name, runner)


@pytest.fixture(scope="module")
def hours(tmp_path_factory):
    "A small model as a file, and three hours of weather; as many rows as columns."
    folder, grid = tmp_path_factory.mktemp("hours"), regular_grid(62, 60, 4, 6, 0.25)
    model = build_model("edge-dense", NORMAL, grid, aux=("z_sfc",), dims=(8, 8, 8))
    export_model(model, folder / "model.onnx", engines=("onnxruntime",))
    values, time = np.ones((3, *grid.shape), "float32"), START + np.arange(3) * np.timedelta64(1, "h")
    means = dict(zip(CHANNELS, USUAL.mean))
    fields = {name: (("time", *grid.dims), values * np.float32(mean)) for name, mean in means.items()} | dict(z_sfc=(grid.dims, values[0]))
    return folder, with_cf(xr.Dataset(fields, coords=grid.coords() | dict(time=time)))


WRONG = {
    "2t in .* lies along latitude, longitude, time, and must lie along time, latitude": lambda ds: ds.transpose(..., "time"),
    "2t in .* lies along time, longitude, latitude, and": lambda ds: ds.transpose("time", "longitude", "latitude"),
    "msl in .* lies along latitude, longitude, and": lambda ds: ds.assign(msl=ds["msl"][0].drop_vars("time")),
    "z_sfc in .* lies along time, latitude": lambda ds: ds.assign(z_sfc=ds["2t"]),
    "2t in .* lies along time, latitude, longitude, string1": lambda ds: ds.assign({"2t": ds["2t"].astype("S1")}),
    "one time and no dimension": lambda ds: ds.isel(time=0),
    "62…60 N, 4…6 E, .* is on 9×9 cells, 60…62 N": lambda ds: ds.isel(latitude=slice(None, None, -1)),
    "2t in .* is in 1, or has no units, and must be in K": lambda ds: ds.assign({"2t": ds["2t"].drop_attrs()}),
    "is on 1×9 cells": lambda ds: ds.isel(latitude=0),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_weather_that_lies_otherwise(sentence, hours, tmp_path):
    "One sentence; a grid with as many rows as columns would take a transposed field."
    WRONG[sentence](hours[1]).to_netcdf(tmp_path / "wrong.nc", format="NETCDF3_64BIT")
    with pytest.raises(ValueError, match=sentence):
        read_start(tmp_path / "wrong.nc", Runner(hours[0] / "model.onnx"))


def test_another_calendar(hours, tmp_path):
    noleap = dict(time=dict(units="hours since 2024-02-01", calendar="noleap", dtype="f8"))
    hours[1].to_netcdf(tmp_path / "noleap.nc", encoding=noleap, format="NETCDF3_64BIT")
    with pytest.raises(ValueError, match="calendar 'noleap'"):
        read_start(tmp_path / "noleap.nc", Runner(hours[0] / "model.onnx"))


def test_forecasts_that_cannot_be_written(hours, tmp_path):
    "What is read stays, and a forecast that does not fit takes no room first."
    model, weather = tmp_path / "model.onnx", tmp_path / "weather.nc"
    shutil.copy(hours[0] / "model.onnx", model)
    hours[1].to_netcdf(weather, format="NETCDF3_64BIT")
    before = {path: path.read_bytes() for path in (model, weather)}
    for path in before:
        with pytest.raises(ValueError, match="would be overwritten: choose another name"):
            forecast_onnx(model, weather, path, 3)
    with pytest.raises(ValueError, match="GB do not fit on the disk"):
        forecast_onnx(model, weather, tmp_path / "long.nc", 10**9)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_headers_that_are_damaged(hours, tmp_path):
    "Any byte of a header may be wrong: the file is read, or refused."
    path = tmp_path / "damaged.nc"
    hours[1].to_netcdf(path, format="NETCDF3_64BIT")
    whole = path.read_bytes()
    for at in range(4, 600):
        path.write_bytes(whole[:at] + b"\xfe" + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            netcdf3.read_netcdf3(path)


def test_texts_that_are_damaged(hours, tmp_path):
    whole = (hours[0] / "model.onnx").read_bytes()
    (tmp_path / "damaged.onnx").write_bytes(whole.replace(b'"edge-dense"', b'"edge-dense?'))
    with pytest.raises(ValueError, match="was changed after the export"):
        read_facts(tmp_path / "damaged.onnx")


def test_other_weights_are_found(hours, tmp_path):
    "A flipped bit anywhere, a layer of zeros, the graph of another model under this one's texts."
    path, whole, rng = tmp_path / "model.onnx", (hours[0] / "model.onnx").read_bytes(), np.random.default_rng(7)
    facts, refused = read_facts(hours[0] / "model.onnx"), 0
    for at in rng.integers(0, len(whole), 200):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert read_facts(path) == facts
        except (WeatherError, UserWarning) as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 190
    graph = onnx_ir.load(hours[0] / "model.onnx")
    largest = max(graph.graph.initializers.values(), key=lambda value: value.const_value.size)
    largest.const_value = onnx_ir.tensor(np.zeros(largest.const_value.shape, "float32"), name=largest.name)
    onnx_ir.save(graph, path)
    with pytest.raises(WeatherError, match="not those that were exported"):
        Runner(path)
    other = build_model("edge-dense", NORMAL, regular_grid(62, 60, 4, 6, 0.25), aux=("z_sfc",), dims=(8, 8, 8), seed=5)
    export_model(other, tmp_path / "other.onnx", engines=("onnxruntime",))
    foreign, own = onnx_ir.load(tmp_path / "other.onnx"), onnx_ir.load(hours[0] / "model.onnx")
    foreign.metadata_props.update(own.metadata_props)
    onnx_ir.save(foreign, path)
    with pytest.raises(WeatherError, match="not those that were exported"):
        Runner(path)


def test_files_without_a_digest_say_so(hours, tmp_path):
    graph = onnx_ir.load(hours[0] / "model.onnx")
    del graph.metadata_props["graph_sha256"]
    onnx_ir.save(graph, tmp_path / "old.onnx")
    with pytest.warns(UserWarning, match="no digest of its weights"):
        assert Runner(tmp_path / "old.onnx").names == CHANNELS


def test_impossible_values_are_refused(hours, tmp_path):
    "What open_weather refuses is refused here too, before the forecast and in it."
    hot = hours[1].assign({"2t": hours[1]["2t"] + 300})
    hot.to_netcdf(tmp_path / "hot.nc", format="NETCDF3_64BIT")
    with pytest.raises(WeatherError, match="2t in .*hot.nc runs from .* K, which is not possible"):
        forecast_onnx(hours[0] / "model.onnx", tmp_path / "hot.nc", tmp_path / "out.nc", 1)
    wild = shaken("edge-dense", regular_grid(62, 60, 4, 6, 0.25), dims=(8, 8, 8))
    wild.normalizer = replace(NORMAL, std=tuple(300 * std for std in NORMAL.std))
    export_model(wild, tmp_path / "wild.onnx", engines=("onnxruntime",))
    weather = hours[1].assign(lsm=hours[1]["z_sfc"])
    weather.to_netcdf(tmp_path / "weather.nc", format="NETCDF3_64BIT")
    with pytest.raises(WeatherError, match="wild.onnx at 2025-01-1.* is not possible"):
        forecast_onnx(tmp_path / "wild.onnx", tmp_path / "weather.nc", tmp_path / "out.nc", 240)
    assert not (tmp_path / "out.nc").exists()


def test_inputs_that_the_runner_lacks(tmp_path):
    model = build_model("edge-dense", NORMAL, regular_grid(62, 60, 4, 6, 0.25), aux=("soil", "lat"), dims=(8, 8, 8))
    with pytest.raises(WeatherError, match="takes soil, which forecast_onnx does not have"):
        export_model(model, tmp_path / "model.onnx")


def test_one_seed_is_one_forecast(hours, tmp_path):
    "The seed that a file names gives its numbers again, from a `Runner` that was used before too; another seed gives another member."
    weather = hours[1]
    noisy = shaken("edge-dense", regular_grid(62, 60, 4, 6, 0.25), noise=2, dims=(8, 8, 8))
    export_model(noisy, tmp_path / "noisy.onnx", engines=("onnxruntime",))
    weather.assign(lsm=weather["z_sfc"]).to_netcdf(tmp_path / "weather.nc", format="NETCDF3_64BIT")
    runner, made = Runner(tmp_path / "noisy.onnx", seed=1), []
    for model, seed in ((runner, 0), (runner, 0), (runner.path, 1), (runner.path, 2)):
        path = forecast_onnx(model, tmp_path / "weather.nc", tmp_path / "out.nc", 2, seed=seed)
        with open_saved(path) as one:
            made.append(one["10u"].values)
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2]) and not np.array_equal(made[0], made[3])
    with pytest.raises(ValueError, match="seed is -1"):
        Runner(tmp_path / "noisy.onnx", seed=-1)


FULL = """
import resource, signal, sys
from microclimate.device.runner import forecast_onnx
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
forecast_onnx(*sys.argv[1:])
"""


def test_no_space_left_for_a_forecast(week, tmp_path):
    folder, path = week[0], tmp_path / "day.nc"
    path.write_text("earlier")
    done = subprocess.run([sys.executable, "-c", FULL, folder / "edge.onnx", folder / "classic.nc", path], capture_output=True, text=True)
    assert done.returncode != 0 and f"WeatherError: Cannot write {path}" in done.stderr
    assert path.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == ["day.nc"]
