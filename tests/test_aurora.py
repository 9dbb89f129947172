"""Aurora end to end: a forecast by its notebook, weights from a hub, a fine-tuning that is killed and goes on. All weights are random."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch

from microclimate.aurora import AURORA_CHANNELS, VARIANTS, find_checkpoint, load_net, random_checkpoint
from microclimate.core import WeatherError, verify
from microclimate.grid import regular_grid

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


def test_the_main_job_runs_aurora(weights, tmp_path):
    "The forecast is written with its provenance, named random, and not scored."
    run("run_forecast", tmp_path, model="aurora", checkpoint=str(weights), region=REGION, halo=8, history_days=1)
    assert verify(tmp_path / "forecast.nc")["model"].endswith("(random weights)")
    rows = (tmp_path / "scores.csv").read_text(encoding="utf-8")
    assert "persistence" in rows and "random" not in rows


def test_without_weights_the_main_job_says_so(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="non-commercial use: get aurora-0.25-small-pretrained.ckpt"):
        run("run_forecast", tmp_path, model="aurora")


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
