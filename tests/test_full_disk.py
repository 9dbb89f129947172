"""A disk that fills up in the middle of a file: one sentence, no half file, and the earlier file as it was."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, signal, sys
from pathlib import Path
import numpy as np, xarray as xr
from microclimate.files import write_json
from microclimate.provenance import save_dataset
from microclimate.grid import NORWAY
from microclimate.models.rollout import write_stream
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[2])
hour = np.array([3600 * 10**9], "m8[ns]")
field = np.random.default_rng(0).normal(280, 5, (1, 1, *NORWAY.shape)).astype("float32")
frame = xr.Dataset({"2t": (("init_time", "lead_time", *NORWAY.dims), field)},
                   coords=NORWAY.coords() | dict(init_time=np.array(["2024-06-08"], "M8[ns]"), lead_time=hour))
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # bytes that any file may have from here on
{"save_dataset": lambda: save_dataset(frame, path, {}),
 "write_stream": lambda: write_stream((frame.assign_coords(lead_time=k * hour) for k in range(1, 25)), path, {}),
 "write_json": lambda: write_json(dict(text="x" * 100_000), path)}[sys.argv[1]]()
"""


@pytest.mark.parametrize("writer", ["save_dataset", "write_stream", "write_json"])
def test_no_space_left(writer, tmp_path):
    path = tmp_path / "forecast.nc"
    path.write_text("earlier")
    done = subprocess.run([sys.executable, "-c", SCRIPT, writer, str(path)], capture_output=True, text=True)
    assert done.returncode != 0 and f"WeatherError: Cannot write {path}" in done.stderr
    assert path.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == ["forecast.nc"]
