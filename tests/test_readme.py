"""The README: its Python runs, its commands and files exist."""

import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyro_stcn.data import Standardiser

from .small import CAUSAL, small_data, small_stcn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["bound"] < 0
    assert namespace["paths"].shape == (4, 100, 3)
    assert (tmp_path / "runs" / "walks" / "best.safetensors").exists()


@pytest.mark.parametrize("page", ["generation", "training", "which_number"])
def test_python_blocks_of_the_docs_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:  # as torchrun does for one process
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    data = small_data(5)
    unit = Standardiser((0.0,) * 4, (2.0,) * 4)
    namespace = {
        "net": small_stcn(CAUSAL),
        "x": torch.randn(8, 60, 4),
        "train": data,
        "test": data,
        "corpus": SimpleNamespace(test=data, standardiser=unit),
        "other_standardiser": Standardiser((0.0,) * 4, (3.0,) * 4),
    }
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for code in blocks:
        exec(compile(code, f"docs/{page}.md", "exec"), namespace)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE))
    assert {a or b for a, b in named} == {"demo", "test"} & targets


def test_files_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    modules = re.findall(r"`([a-z_/]+(?:\.py|/))`", README.split("## What exists")[1].split("##")[0])
    assert len(modules) > 10
    for module in modules:
        assert (ROOT / "pyro_stcn" / module).exists(), module
