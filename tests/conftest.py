"""What every test shares: one thread, and the real weather files where this machine has them."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before the first import of numpy or torch

from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("agg")  # here only: the kernels that tests start draw into their notebooks
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root():
    "The repository."
    return ROOT


@pytest.fixture(scope="session")
def shared():
    "The folder of real weather files; a test that asks for it is skipped on a machine without one."
    from microclimate.files import shared_data

    if (folder := shared_data()) is None:
        pytest.skip("no real weather files here: ../shared/data is absent, and MICROCLIMATE_SHARED_DATA names no folder")
    return folder
