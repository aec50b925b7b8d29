"""The example for data of one's own, on a small file of every kind."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_stcn.checkpoint import load_model
from pyro_stcn.data import RawFormat, load_rolls, read_audio, synthetic_strokes, write_wav

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_data.py"
RNG = np.random.default_rng(0)
SMALL = {"width": 4, "steps": 2, "particles": 2, "samples": 2}
#: kind -> whether a file that was written is what was read
READS = {
    "real": lambda path: np.loadtxt(path, delimiter=",", skiprows=1).shape[1] == 2 and path.read_text()[:3] == "x,y",
    "audio": lambda path: len(read_audio(path, expected_rate=8000).samples) == 20 * 50,
    "strokes": lambda path: set(np.loadtxt(path, delimiter=",", skiprows=1)[:, 2]) <= {0, 1},
    "roll": lambda path: len(json.loads(path.read_text())) == 2 and load_rolls(path, path, path).data_dim == 88,
    "categories": lambda path: set(path.read_text().split()) <= {"label", *"abc"},
}


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_the_seed_is_that_of_what_is_held_out(example, tmp_path):
    args = example["Args"]
    load = lambda kind, seed: example["load"](args(data=make(kind, tmp_path / kind), seed=seed))  # noqa: E731
    assert len({load("audio", seed).test.names for seed in range(5)}) > 1
    assert load("strokes", 3).test.names == load("strokes", 4).test.names


def make(kind, folder):
    """Write a small file of a kind; returns its path."""
    folder.mkdir(exist_ok=True)
    path = folder / {"real": "t.csv", "roll": "t.json", "categories": "t.txt"}.get(kind, "t")
    if kind == "real":
        path.write_text("id,x,y\n" + "".join(f"{i % 5},{'' if i == 20 else i % 7},{i % 3}\n" for i in range(60)))
    elif kind == "roll":
        path.write_text(json.dumps({part: [[[60], [60, 64], []] * 3] * 3 for part in ("train", "valid", "test")}))
    elif kind == "categories":
        path.write_text("\n".join(["abcabc", "bcabca"] * 4))
    elif kind == "audio":
        path.mkdir(exist_ok=True)
        for i in range(6):
            write_wav(path / f"{i}.wav", RNG.normal(0, 0.05, 1000), 8000)
    else:
        path = synthetic_strokes(folder / "ink", words=(12, 4, 6))
    return path


@pytest.mark.parametrize(
    ("kind", "options", "written"),
    [
        ("real", {"sequence_column": "id", "missing": "mark"}, ["sample-0.csv", "sample-1.csv"]),
        ("audio", {"test_files": "[0-1].wav", "frame": 50}, ["sample-0.wav", "sample-1.wav"]),
        ("strokes", {}, ["sample-0.csv", "sample-1.csv"]),
        ("roll", {}, ["sample.json"]),
        ("categories", {}, ["sample-0.csv", "sample-1.csv"]),
    ],
)
def test_what_goes_in_comes_out(example, kind, options, written, tmp_path, capsys):
    folder = tmp_path / "out"
    data = make(kind, tmp_path / "in")
    example["main"](example["Args"](data, output=folder, **SMALL, **options))
    printed = capsys.readouterr().out
    assert f"{kind}: " in printed
    assert "nats per sequence" in printed
    assert {path.name for path in (folder / "samples").iterdir()} >= set(written)
    for name in ("samples.png", "training.png", "test.txt", "test.csv"):
        assert (folder / name).stat().st_size > 100, name
    raw = RawFormat.from_facts(load_model(folder / "best.safetensors")[1]["facts"])
    assert raw.kind == kind
    assert READS[kind](folder / "samples" / written[0])


def test_gaps_of_the_test_set_are_filled_and_the_default_needs_no_data(example, tmp_path, capsys):
    example["main"](example["Args"](output=tmp_path, **SMALL))
    assert "steps, 49 of them marked as missing" in capsys.readouterr().out
    assert (tmp_path / "filled.png").stat().st_size > 1000
    filled = np.loadtxt(tmp_path / "samples" / "filled-0.csv", delimiter=",", skiprows=1)
    assert np.isfinite(filled).all()


def test_what_cannot_be_done_is_said(example, tmp_path):
    data = make("real", tmp_path / "in")
    for options, error, message in (
        ({"sequence_column": "id"}, ValueError, "has 1 missing values.*missing='mark'"),
        ({"test_files": "*.wav"}, ValueError, "is the name of 0 of 0 files"),
        ({"steps": 0}, ValueError, "must be at least 1"),
        ({"width": 2, "sequence_column": "id", "missing": "mark"}, ValueError, "width must be at least 4"),
    ):
        with pytest.raises(error, match=message):
            example["main"](example["Args"](data, output=tmp_path / "x", **SMALL | options))


def test_an_error_that_can_be_mended_has_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_data.py", "--data", str(tmp_path / "nowhere.csv")])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "nowhere.csv: does not exist" in capsys.readouterr().err
