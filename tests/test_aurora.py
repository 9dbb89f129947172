"""Aurora end to end: a forecast by its notebook, weights from a hub, a fine-tuning that is killed and goes on. All weights are random."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from safetensors.numpy import load_file

from microclimate.networks.aurora import (AURORA_CHANNELS, VARIANTS, find_checkpoint, load_net,
                                          random_checkpoint)
from microclimate.errors import WeatherError
from microclimate.files import shared_data
from microclimate.provenance import verify
from microclimate.grid import regular_grid
from microclimate.models.registry import load_model

aurora = pytest.importorskip("aurora")
ROOT = Path(__file__).parents[1]
SIZES = dict(embed_dim=64, encoder_depths=(1, 1, 1), decoder_depths=(1, 1, 1), encoder_num_heads=(1, 2, 4), decoder_num_heads=(4, 2, 1),
             num_heads=4)
REGION = [65.75, 62.0, 6.0, 13.75]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("aurora") / "random.safetensors", **SIZES)


def run(notebook, folder, **parameters):
    papermill.execute_notebook(ROOT / "nbs" / f"{notebook}.ipynb", folder / "out.ipynb", dict(parameters, out_dir=str(folder)), cwd=ROOT,
                               progress_bar=False)
    return json.loads((folder / "out.ipynb").read_text(encoding="utf-8"))


def test_a_region_is_forecast_by_aurora(weights, tmp_path):
    "The forecast is written with its provenance, named random, and not scored."
    run("run_aurora", tmp_path, checkpoint=str(weights), region=REGION, halo=8, history_days=1)
    assert verify(tmp_path / "forecast.nc")["model"].endswith("(random weights)")
    rows = (tmp_path / "scores.csv").read_text(encoding="utf-8")
    assert "persistence" in rows and "random" not in rows


def test_without_weights_the_run_says_so(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="non-commercial use: get aurora-0.25-small-pretrained.ckpt"):
        run("run_aurora", tmp_path)


def test_weights_of_another_variant_are_named(tmp_path):
    "The largest, as an empty shell of the right shapes."
    with torch.device("cpu"):
        shapes = {k: v.shape for k, v in aurora.AuroraSmallPretrained().state_dict().items()}
    torch.save({k: torch.zeros(1).expand(shape) for k, shape in shapes.items()}, tmp_path / "small.ckpt")
    with pytest.raises(WeatherError, match="they are those of aurora-0.25-small-pretrained"):
        load_net("aurora-0.25-pretrained", tmp_path / "small.ckpt", regular_grid(65.75, 62, 6, 13.75, 0.25))


class Hub(BaseHTTPRequestHandler):
    "One file, laid out as the hub does: its SHA-256 is its ETag, and a revision is a commit."

    def do_HEAD(self): self.answer(False)

    def do_GET(self): self.answer(True)

    def answer(self, body):
        data, name = self.server.data, hashlib.sha256(self.server.data).hexdigest()
        if "/resolve/" not in self.path: return self.send_error(404)
        self.server.gets += body
        self.send_response(200)
        revision = self.path.split("/resolve/")[1].split("/")[0]
        headers = {"X-Repo-Commit": revision, "ETag": f'"{name}"', "X-Linked-Etag": f'"{name}"', "X-Linked-Size": len(data),
                   "Content-Length": len(data)}
        for key, value in headers.items(): self.send_header(key, str(value))
        self.end_headers()
        if body: self.wfile.write(self.server.sent)

    def log_message(self, *_): pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.data = server.sent = np.random.default_rng(0).bytes(300_000)
    server.gets = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield server
    server.shutdown()


def _find(_):
    try: return hashlib.sha256(find_checkpoint("aurora", "hub").read_bytes()).hexdigest()
    except WeatherError as error: return str(error)


def test_the_hub_is_asked_once_by_processes_together(hub):
    with get_context("spawn").Pool(3) as pool: found = pool.map(_find, range(3))
    assert found == [hashlib.sha256(hub.data).hexdigest()] * 3 and hub.gets == 1


def test_a_damaged_download_is_not_kept(hub):
    hub.sent = hub.data[:-1] + b"?"
    with get_context("spawn").Pool(1) as pool: [told] = pool.map(_find, range(1))
    assert "came damaged" in told or "cannot be fetched" in told
    hub.sent = hub.data
    with get_context("spawn").Pool(1) as pool: [found] = pool.map(_find, range(1))
    assert found == hashlib.sha256(hub.data).hexdigest()


def test_channels_and_variants():
    assert len(set(AURORA_CHANNELS)) == 69 and all(hasattr(aurora, variant.network) for variant in VARIANTS.values())


FINETUNE = """
import sys, torch
from microclimate.networks.aurora import AURORA_CHANNELS
from microclimate.files import shared_data
from microclimate.weather.open import open_weather
from microclimate.grid import regular_grid
from microclimate.training.loader import WeatherData
from microclimate.models.lora import add_lora, save_adapter
from microclimate.models.aurora_region import load_aurora
from microclimate.regrid import regrid
from microclimate.training.train import fit
torch.set_num_threads(1)
weights, folder = sys.argv[1:]
svalbard = regular_grid(78.9, 77.4, 13, 16.1, 0.1)
ds = regrid(open_weather(shared_data() / "arome_arctic_2p5km_20180710.nc", variables=[*AURORA_CHANNELS, "z_sfc"]), svalbard)
ground = open_weather("nature", variables=["lsm", "slt"], region=svalbard, time=ds.time.values[:1])
ds = ds.assign(lsm=ground["lsm"], slt=ground["slt"])
held = "2018-07-11T03/2018-07-12"
data = WeatherData(ds, history=2, steps=2, step_hours=6, channels=AURORA_CHANNELS, validate=held, batch_size=2, seed=1)
model = add_lora(load_aurora("aurora", weights, ds, data.normalizer), rank=8)
done = fit(model, data, folder, progress=False, checkpoint_every=1, log_every=1, epochs=8, rollout=(1, 2), lr=1e-2)
save_adapter(done, folder, {})
frozen = {k: v for k, v in model.net.named_parameters() if not v.requires_grad}
after = dict(done.net.named_parameters())
assert all(torch.equal(v, after[k]) for k, v in frozen.items()), "the base moved"
"""


@pytest.mark.skipif(shared_data() is None, reason="needs AROME-Arctic in ../shared/data")
def test_an_adapter_learns_svalbard_and_survives_a_kill(weights, tmp_path):
    "The loss falls, the base keeps its bits, and a training killed without mercy ends as an undisturbed one."
    def start(folder):
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", FINETUNE, str(weights), str(folder)], stderr=subprocess.PIPE,
                                env=os.environ | dict(OMP_NUM_THREADS="1"))

    def finish(process):
        errors = process.communicate(timeout=400)[1].decode()
        assert process.returncode == 0, errors

    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed, doomed = start(calm), start(killed)
    while not (killed / "last.ckpt").exists() and doomed.poll() is None: time.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    assert doomed.returncode == -signal.SIGKILL and not (killed / "adapter.safetensors").exists()
    finish(undisturbed)
    finish(start(killed))

    a, b = (load_file(folder / "adapter.safetensors") for folder in (calm, killed))
    assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
    log = pd.read_csv(calm / "metrics.csv")
    loss = log["train/loss"].to_numpy()
    assert log["val/rmse"].dropna().iloc[-1] < log["val/rmse"].dropna().iloc[0] and loss[-3:].mean() < 0.9 * loss[0]


def test_the_finetuning_notebook_takes_aurora(weights, tmp_path):
    "An adapter and a model folder come out; random weights are not scored."
    run("run_finetune", tmp_path, model="aurora", checkpoint=str(weights), source="nature:5", region=REGION, start="2024-01-01", rank=8,
        end="2024-01-07T18", validate=None, val_steps=1, holdout="2024-01-06/2024-01-07", epochs=1, batch_size=32, lead_hours=6,
        trainings=["lora"])
    assert (tmp_path / "adapter" / "adapter.safetensors").is_file()
    assert load_model(tmp_path / "lora").name.endswith("(random weights)")
    assert "before" not in (tmp_path / "scores.csv").read_text(encoding="utf-8")
