"""Foundry over real HTTP: Aurora's own server, Microsoft's emulator of blobs, and a client that is killed in the middle."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import microclimate.compute  # noqa: F401 -- before aurora: it mends a torchvision that was made for another torch
from microclimate.errors import WeatherError
from microclimate.provenance import open_saved, verify
from microclimate.grid import regular_grid

for needed in ("aurora", "mlflow", "fastapi", "uvicorn"): pytest.importorskip(needed, reason="an extra is not installed: aurora or dev")

import microclimate.delivery.foundry as foundry
from microclimate.networks.aurora import AURORA_CHANNELS, randomise_adaptive_norms, to_aurora
from microclimate.batch import Batch
from microclimate.weather.forecasts import open_forecast
from microclimate.weather.nature import sample, soil
from microclimate.models.rollout import forecast_to_file

AZURITE = "3.37.0"
ACCOUNT = "devstoreaccount1"  # the emulator's, with the key that its manual gives to everybody
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
MODEL, TOKEN, REQUEST_S = "aurora-0.25-small-pretrained", "a-token-for-tests", 8
TINY = dict(encoder_depths=(1, 1), encoder_num_heads=(2, 4), decoder_depths=(1, 1), decoder_num_heads=(4, 2), embed_dim=32, num_heads=2,
            window_size=(2, 3, 4))
CLIENT = f"""
import sys, xarray as xr
from microclimate.delivery.foundry import submit_all
with xr.open_dataset(sys.argv[1]) as ds:
    submit_all(ds, ds.time.values[1:9], 12, sys.argv[2], concurrency=4, timeout_s=200, poll_s=0.2, request_s={REQUEST_S})
"""


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def answers(port):
    with socket.socket() as s: return s.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    "A container in Azurite; its URL without a signature."
    if not shutil.which("npm"): pytest.skip("no npm here, which fetches Azurite")
    home = Path(tempfile.gettempdir()) / f"azurite-{AZURITE}"
    if not (home / "node_modules").is_dir():
        fresh = tempfile.mkdtemp(dir=home.parent)
        asked = ["npm", "install", "--prefix", fresh, "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries", "1",
                 f"azurite@{AZURITE}"]
        if subprocess.run(asked, capture_output=True, timeout=300).returncode: pytest.skip("npm's registry does not give Azurite here")
        os.replace(fresh, home)
    port = free_port()
    command = [home / "node_modules/.bin/azurite-blob", "--blobPort", str(port), "--location", tmp_path_factory.mktemp("azurite"),
               "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    emulator = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), 60, "Azurite starts")
        from azure.storage.blob import ContainerClient

        url = f"http://127.0.0.1:{port}/{ACCOUNT}/weather"
        ContainerClient.from_container_url(url, credential=dict(account_name=ACCOUNT, account_key=KEY)).create_container()
        yield url
    finally:
        emulator.kill()
        emulator.wait()


def signed(url):
    "The container's URL with a signature for an hour."
    from azure.storage.blob import generate_container_sas

    end = datetime.now(timezone.utc) + timedelta(hours=1)
    return url + "?" + generate_container_sas(ACCOUNT, "weather", account_key=KEY, permission="rwc", expiry=end)


class Scoring:
    "The package's server behind an endpoint that can fail. `ran` has the initial times that the model was run for."

    def __init__(self, checkpoint, faults):
        import aurora
        from aurora.foundry.common import model as served
        from aurora.foundry.server.mlflow_wrapper import AuroraModelWrapper

        scoring, self.ran, self.faults, self.lock = self, [], faults, threading.Lock()
        self.counts, self.gate, self.gated = Counter(), threading.Event(), 3

        class Tiny(served.Model):
            name = MODEL

            def create_model(self):
                net = aurora.AuroraSmallPretrained(**TINY)
                net.load_checkpoint_local(served.MLFLOW_ARTIFACTS[MODEL])
                return net

            def run(self, batch, num_steps):
                scoring.ran.append(batch.metadata.time[0])
                if len(scoring.ran) >= scoring.gated: scoring.gate.wait(300)
                yield from super().run(batch, num_steps)

        served.models[MODEL] = Tiny
        self.wrapper = AuroraModelWrapper()
        self.wrapper.load_context(SimpleNamespace(artifacts={MODEL: str(checkpoint)}))

    def serve(self):
        import uvicorn
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse

        app = FastAPI()

        @app.post("/score")
        def score(body: dict, request: Request):
            if request.headers["authorization"] != f"Bearer {TOKEN}": return JSONResponse({}, 401)
            text = body["input_data"]["data"]
            with self.lock:
                kind = json.loads(text)["type"]
                self.counts[kind] += 1
                fault = self.faults.pop((kind, self.counts[kind]), None)
            try: answer = self.wrapper.predict(None, {"data": np.array(text)})
            except Exception as error: return JSONResponse(dict(error_code="BAD_REQUEST", message=str(error)), 400)  # as mlflow answers
            if fault == "silence": time.sleep(REQUEST_S + 2)
            return JSONResponse({}, 500) if fault == 500 else answer

        self.port = free_port()
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error"))
        threading.Thread(target=self.server.run, daemon=True).start()
        until(lambda: answers(self.port), 30, "the endpoint starts")
        return self


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    "Aurora in small with random weights, in which every part acts, and its checkpoint."
    import aurora

    torch.manual_seed(0)
    net = randomise_adaptive_norms(aurora.AuroraSmallPretrained(**TINY), 0).eval()
    path = tmp_path_factory.mktemp("weights") / "random.ckpt"
    torch.save(net.state_dict(), path)
    return net, path


@pytest.fixture(scope="module")
def scoring(network):
    scoring = Scoring(network[1], {("submission", 2): "silence", ("task_info", 3): 500}).serve()
    yield scoring
    scoring.gate.set()
    scoring.server.should_exit = True
    scoring.wrapper.POOL.shutdown()


@pytest.fixture(scope="module")
def weather(tmp_path_factory):
    "Ten states, six hours apart, in a file."
    grid = regular_grid(65.75, 62, 6, 13.75, 0.25)
    ds = sample(grid, np.datetime64("2024-06-08", "ns") + np.arange(10) * np.timedelta64(6, "h"), variables=AURORA_CHANNELS)
    ds["slt"] = soil(ds["lsm"])
    path = tmp_path_factory.mktemp("weather") / "states.nc"
    ds.to_netcdf(path)
    return ds, path


@pytest.fixture(scope="module")
def delivered(blobs, scoring, weather, tmp_path_factory):
    "What comes of two runs of one command, the first of them killed."
    path = tmp_path_factory.mktemp("forecast") / "forecast.nc"
    secrets = dict(FOUNDRY_ENDPOINT=f"http://127.0.0.1:{scoring.port}/score", FOUNDRY_TOKEN=TOKEN, BLOB_URL_WITH_SAS=signed(blobs))
    command = [sys.executable, "-c", CLIENT, str(weather[1]), str(path)]
    start = lambda: subprocess.Popen(command, env=os.environ | secrets, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    files = lambda name: sorted(path.with_suffix(".orders").glob(f"*/{name}"))

    first = start()
    try: until(lambda: len(files("prediction-001.nc")) == 2 and len(files("task.json")) == 6, 150, "two delivered and four under way")
    finally: first.kill()  # kill -9
    told = first.communicate()[0]
    written = {file: file.stat().st_mtime_ns for file in files("prediction-*.nc")}
    assert not path.exists() and scoring.faults == {}  # both faults have been met
    scoring.gate.set()
    second = start()
    told += second.communicate(timeout=200)[0]
    assert second.returncode == 0, told
    assert written == {file: file.stat().st_mtime_ns for file in written}  # what the first had brought home was left alone
    return path, told, secrets


def test_every_forecast_is_paid_for_once(delivered, scoring, weather):
    path, _, _ = delivered
    times = weather[0].time.values[1:9]
    assert sorted(np.array(scoring.ran, "M8[ns]")) == sorted(times)
    tasks = scoring.wrapper.TASKS
    assert len(tasks) > 8 and sum(task.task_info.submitted for task in tasks.values()) == 8  # one answer was lost, its task never started
    assert sorted(verify(path)["tasks"].values()) == sorted(name for name, task in tasks.items() if task.task_info.success)


def test_forecasts_are_those_of_a_local_rollout(delivered, network, weather):
    import aurora

    with open_saved(delivered[0]) as made:
        assert list(made.init_time.values) == list(weather[0].time.values[1:9]) and made.sizes["lead_time"] == 2
        for init in made.init_time.values:
            batch = to_aurora(Batch.from_dataset(weather[0], init, AURORA_CHANNELS, history=2, step=6))
            with torch.inference_mode(): local = list(aurora.rollout(network[0], batch, 2))
            for state, lead in zip(local, made.lead_time.values):
                got = made.sel(init_time=init, lead_time=lead)
                for name, x in state.surf_vars.items(): np.testing.assert_array_equal(got[name], x[0, 0])
                for name, x in state.atmos_vars.items():
                    for k, level in enumerate(state.metadata.atmos_levels): np.testing.assert_array_equal(got[f"{name}{level}"], x[0, 0, k])


def test_the_file_is_like_any_other_forecast(delivered, weather, tmp_path):
    class Still:
        step_hours, history, name, channels = 6, 2, MODEL, AURORA_CHANNELS

        def __call__(self, batch):
            return batch.with_state(batch.stack()[:, -1:], batch.channels, batch.metadata.time + np.timedelta64(6, "h"))

    with forecast_to_file(Still(), weather[0], weather[0].time.values[1:9], 12, tmp_path / "local.nc") as local:
        with open_saved(delivered[0]) as made:
            assert made.sizes == local.sizes and list(made.variables) == list(local.variables)
            assert all(made[name].attrs == local[name].attrs and made[name].dtype == local[name].dtype for name in local.variables)
            assert set(made.attrs) == set(local.attrs) and made.attrs["title"] == local.attrs["title"]
    opened = open_forecast(delivered[0], ["2t", "z500"])
    assert dict(opened.sizes) == dict(init_time=8, lead_time=2, latitude=16, longitude=32)


def test_secrets_are_in_no_file_and_in_no_message(delivered):
    path, told, secrets = delivered
    signature = secrets["BLOB_URL_WITH_SAS"].split("sig=")[1].split("&")[0]
    for secret in (TOKEN, signature):
        assert secret not in told
        for file in path.parent.rglob("*.*"): assert file.is_dir() or secret.encode() not in file.read_bytes()


def test_refusals(delivered, monkeypatch):
    monkeypatch.setitem(foundry.RETRIES, "total", 1)
    endpoint, token, container = delivered[2].values()
    access = foundry.Access(endpoint, token, container)
    client = lambda **other: foundry.client_for(replace(access, **other))
    channel = lambda url: foundry.channel_for(replace(access, container=url))
    with pytest.raises(foundry.LostTask): client().get_progress("a-task-of-yesterday")
    with pytest.raises(WeatherError, match="refuses the token"): client(token="another").get_progress("")
    with pytest.raises(WeatherError, match="does not answer"): client(endpoint="http://127.0.0.1:9/score").get_progress("")
    with pytest.raises(WeatherError, match="refuses the SAS .HTTP 403"): channel(container.replace("sig=", "sig=x")).exists("a", "input.nc")
    elsewhere = channel(container.replace("/weather?", "/winter?"))  # the signature is for one container
    with pytest.raises(WeatherError, match="HTTP 40[34]"): elsewhere.write(b"", "a", "input.nc")
