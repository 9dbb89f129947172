"""A Zarr store twice as large as the memory that a process may use is learnt from."""
import os, shutil, subprocess, sys

import numpy as np
import pytest
import zarr

from microclimate.variables import CHANNELS, variable
from microclimate.grid import NORWAY

ROOM = 300  # MiB beyond what the imports take
TIMES = 1680  # 600 MiB

TRAIN = """
import resource, sys
import torch
from microclimate.weather.open import open_weather
from microclimate.training.loader import WeatherData
from microclimate.models.registry import build_model
from microclimate.training.train import fit
import microclimate.training.lightning  # fit would import it later, inside the limit
torch.set_num_threads(1)

def now(what): return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) * 1024

source, folder, room, lazy = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4] == "lazy"
before = now("RssAnon")
resource.setrlimit(resource.RLIMIT_DATA, (now("VmData") + room,) * 2)  # all memory but pages of files
weather = open_weather(source, lazy=lazy)
data = WeatherData(weather, batch_size=2, epoch_batches=4, cache=folder + "/cache" if lazy else None)
model = build_model("sfno-tiny", data.normalizer, data.grid, seed=7, dims=(8, 8, 16), layers=1, heads=2, blocks=1, d1=8)
fit(model, data, folder + "/out", progress=False, epochs=1, lr=1e-3)
print(data.series.states.nbytes, now("RssAnon") - before)
"""


def axis(store, name, values, **attrs):
    array = store.create_array(name, shape=values.shape, dtype=values.dtype, fill_value=-1)
    array[:] = values
    array.attrs.update(_ARRAY_DIMENSIONS=[name], **attrs)


@pytest.fixture
def source(tmp_path):
    "An archive of thirteen channels, made up chunk by chunk."
    store = zarr.open_group(tmp_path / "large.zarr", mode="w", zarr_format=2)
    noise = np.random.default_rng(0).uniform(0.2, 0.6, (24, *NORWAY.shape))
    axis(store, "time", np.arange(TIMES), units="hours since 2020-01-01")
    axis(store, "latitude", NORWAY.lat2d[:, 0])
    axis(store, "longitude", NORWAY.lon2d[0])
    for row in map(variable, CHANNELS):
        array = store.create_array(row.name, shape=(TIMES, *NORWAY.shape), chunks=(24, *NORWAY.shape), dtype="f4", fill_value=np.nan,
                                   compressors=None)
        array.attrs.update(_ARRAY_DIMENSIONS=["time", "latitude", "longitude"], units=row.units)
        for day in range(0, TIMES, 24):
            low, high = (48_000, 60_000) if row.name == "z500" else (row.low, row.high)
            array[day:day + 24] = low + (high - low) * np.roll(noise, day, 2)
    yield tmp_path / "large.zarr"
    shutil.rmtree(tmp_path)


def train(source, folder, how):
    "MALLOC_ARENA_MAX: else each thread keeps a store of freed memory of its own, which the limit would count."
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, source, folder, str(ROOM * 2**20), how]
    small = dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", MALLOC_ARENA_MAX="2")
    return subprocess.run(command, env=os.environ | small, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit and the measure are Linux's")
def test_training_in_less_memory_than_the_data_take(source, tmp_path):
    done = train(source, tmp_path, "lazy")
    assert done.returncode == 0, done.stderr[-2000:]
    states, used = map(int, done.stdout.split())
    print(f"{states / 2**20:.0f} MiB of weather, {used / 2**20:.0f} MiB of memory more than the imports take")
    assert states == TIMES * 13 * 64 * 112 * 4 > 1.9 * ROOM * 2**20 and used < ROOM * 2**20

    at_once = train(source, tmp_path, "at once")  # the same in memory
    assert at_once.returncode != 0 and "MemoryError" in at_once.stderr, at_once.stderr[-2000:]
