"""Every test starts from a fixed seed, an empty parameter store and validation on."""

import os
from pathlib import Path

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # small tensors: threads cost more than they bring, and pytest -n uses the cores


@pytest.fixture(autouse=True)
def _fresh_pyro():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture
def double():
    """Run the test in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Return the folder of real corpora, or skip: set PYRO_STCN_DATA to the folder that holds them."""
    folder = os.environ.get("PYRO_STCN_DATA")
    if not folder:
        pytest.skip("PYRO_STCN_DATA is not set: it names the folder with the real corpora (see CONTRIBUTING)")
    if not Path(folder).is_dir():
        pytest.fail(f"PYRO_STCN_DATA={folder!r} is not a folder")
    return Path(folder)
