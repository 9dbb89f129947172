"""A kill -9 in the middle of training, then the same command: the same final weights as an undisturbed run, bit for bit."""
import os, signal, subprocess, sys, time

import pandas as pd
from safetensors.numpy import load_file

TRAIN = """
import sys
import numpy as np, torch, xarray as xr
from safetensors.torch import save_file
from microclimate.grid import regular_grid
from microclimate.training.loader import WeatherData
from microclimate.models.registry import build_model
from microclimate.training.train import fit
torch.set_num_threads(1)

grid, rng = regular_grid(61, 59.5, 6, 8.25, 0.25), np.random.default_rng(3)
time = np.datetime64("2024-03-01", "ns") + np.arange(15 * 24) * np.timedelta64(1, "h")
angle = np.radians(40 * grid.lon2d) - 2 * np.pi * (np.arange(len(time)) / 31)[:, None, None]
wave = lambda mean, size, turn: (grid.dims, mean + size * np.sin(angle + turn) + 0.05 * size * rng.normal(size=angle.shape))
fields = {"2t": wave(278, 4, 0), "10u": wave(3, 5, 2), "msl": wave(101000, 700, 1)}
ds = xr.Dataset({name: (("time", *dims), x.astype("float32")) for name, (dims, x) in fields.items()}, grid.coords() | dict(time=time))

data = WeatherData(ds, history=2, steps=2, validate=3, batch_size=8, seed=5, max_val_windows=32)
model = build_model("sfno-tiny", data.normalizer, data.grid, history=2, aux=("solar",), seed=7, dropout=0.1,
                    dims=(8, 8, 16), layers=1, heads=2, blocks=1, d1=8)
fit(model, data, sys.argv[1], progress=False, checkpoint_every=4, log_every=5,
    epochs=4, lr=4e-3, rollout=(1, 2), ema=0.97, noise=0.1, patience=3, seed=2)
save_file(model.net.state_dict(), sys.argv[1] + "/weights.safetensors")
"""

def command(folder): return [sys.executable, "-W", "ignore", "-c", TRAIN, str(folder)]

def environment(): return os.environ | dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

def start(folder): return subprocess.Popen(command(folder), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

def finish(process, limit=300):
    errors = process.communicate(timeout=limit)[1].decode()
    assert process.returncode == 0, errors

STOPPED = "KeyboardInterrupt: Stopped; the same command resumes from the last checkpoint."

def kill_when(folder, ready, how=signal.SIGKILL, limit=120):
    """Start the training, kill it as soon as `ready()`; True if it was killed while it ran.

    After Ctrl-C the last line tells: the exit status is Python's -2, or 1 where code that runs at exit
    makes Python forget why it ends."""
    process, end = start(folder), time.monotonic() + limit
    try:
        while not ready() and process.poll() is None and time.monotonic() < end: time.sleep(0.005)
    finally: process.send_signal(how)
    errors = process.communicate(timeout=limit)[1].decode()
    if how == signal.SIGINT: return process.returncode != 0 and errors.rstrip().endswith(STOPPED)
    return process.returncode == -how

def log(folder): return pd.read_csv(folder / "metrics.csv").drop(columns=["seconds", "cpu_seconds"])

def kill_twice(folder):
    "Without mercy within the first epoch, then by Ctrl-C once an epoch is done."
    assert kill_when(folder, (folder / "last.ckpt").exists), "the first epoch was over before the kill"
    assert not (folder / "metrics.csv").exists(), "the kill was meant to fall within the first epoch"
    ctrl_c = kill_when(folder, (folder / "metrics.csv").exists, how=signal.SIGINT)
    assert ctrl_c, "the training was over before Ctrl-C"

def test_killed_training_ends_with_the_same_weights(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = start(calm)  # at the same time, on the other core

    try: kill_twice(killed)
    finally: finish(undisturbed)
    finish(start(killed))

    a, b = (load_file(folder / "weights.safetensors") for folder in (calm, killed))
    assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
    pd.testing.assert_frame_equal(log(calm), log(killed), check_exact=True)
    assert log(calm)["val/rmse"].dropna().iloc[-1] < 0.5 * log(calm)["val/persistence"].dropna().iloc[-1]
