"""The examples, run as a user would run them, on a small synthetic corpus."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import arviz as az
import pytest

from pyro_stcn.checkpoint import load_model, load_tensors
from pyro_stcn.comparison import Score
from pyro_stcn.data import read_audio, synthetic_strokes, synthetic_timit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return synthetic_timit(tmp_path_factory.mktemp("corpus"), speakers=(4, 1), sentences=2)


def run(*arguments, expect=0, script="timit_svi.py"):
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == expect, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_timit_svi_from_start_to_finish(corpus, tmp_path):
    folder = tmp_path / "a run"
    options = ["--data", corpus, "--output", folder, "--test-particles", 2]
    printed = run(*options, "--steps", 2)
    assert "Synthetic speech in the layout of TIMIT, not TIMIT" in printed
    assert "IWAE-2 per sequence" in printed
    assert "lower bounds on the log-likelihood of what is scored" in printed
    assert all(f"KL z{i}" in printed for i in (1, 2, 3))
    for name in ("training.png", "kl.png", "sounds.png", "test.txt", "train.csv"):
        assert (folder / name).stat().st_size > 100, name
    sound = read_audio(folder / "sample-0.wav", expected_rate=16000)
    assert len(sound.samples) == 160 * 200
    assert sound.samples.std() > 1

    idata = az.from_netcdf(str(folder / "posterior.nc"))
    assert idata["posterior"]["z1"].dims == ("chain", "draw", "sequences", "time", "z1_unit")
    assert idata["log_likelihood"]["x"].dims == ("chain", "draw", "sequences")
    assert next(iter(idata["observed_data"]["sequences"].values)).startswith("dr")
    assert {"kl_z1", "kl_z2", "kl_z3", "log_weight"} <= set(idata["sample_stats"].data_vars)

    printed = run(*options, "--steps", 4, "--resume")
    assert "4 steps" in printed
    assert load_tensors(folder / "last.safetensors")[1]["step"] == 4
    assert "resume it, or name another folder" in run(*options, "--steps", 6, expect=1)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["trace", "graph", "renyi", "iwae"])
@pytest.mark.parametrize("preset", ["timit/stcn-dense-gmm-small", "timit/stcn-normal-small"])
def test_timit_svi_with_every_loss(corpus, tmp_path, loss, preset):
    options = ["--loss", loss, "--particles", 2, "--preset", preset, "--validation", "files"]
    run("--data", corpus, "--output", tmp_path / loss, "--test-particles", 2, "--steps", 2, *options)


def test_help_and_errors_teach(corpus, tmp_path):
    printed = run("--help")
    assert all(option in printed for option in ("--data", "--preset", "--loss", "--particles", "--resume", "--output"))
    assert "there are: timit/" in run("--data", corpus, "--preset", "timit/nothing", expect=1)
    assert str(tmp_path / "nowhere") in run("--data", tmp_path / "nowhere", expect=1)


def test_compare_models_resumes_and_prints_a_table(corpus, tmp_path):
    options = ["--data", corpus, "--output", tmp_path, "--steps", 2, "--particles", 2, "--systems", "rnn", "vrnn"]
    first = run(*options, "--seeds", 0, script="compare_models.py")
    assert "| rnn | log-likelihood | exact log-likelihood |" in first
    assert "| vrnn | FIVO-2 | lower bound |" in first
    assert (tmp_path / "table.png").stat().st_size > 1000
    score = tmp_path / "vrnn-gmm-2-0" / "score.json"
    written = score.stat().st_mtime_ns
    second = run(*options, "--seeds", 0, 1, script="compare_models.py")
    assert score.stat().st_mtime_ns == written, "a run that was made is not made again"
    assert second.count("| vrnn |") == 1
    assert "2 updates" in (tmp_path / "table.md").read_text()
    elsewhere = run(*options, "--seeds", 0, "--particles", 3, script="compare_models.py", expect=1)
    assert "holds a score on other data or of another recipe" in elsewhere
    refused = run(*options, "--systems", "vrn", script="compare_models.py", expect=1)
    assert "there is no system 'vrn'; there are: bilstm, " in refused


def test_compare_models_on_handwriting(tmp_path):
    data = synthetic_strokes(tmp_path / "words")
    options = [
        "--data",
        data,
        "--output",
        tmp_path,
        "--steps",
        2,
        "--particles",
        2,
        "--seeds",
        0,
        "--systems",
        "stcn-dense",
    ]
    assert "| stcn-dense | IWAE-2 per step | lower bound |" in run(*options, script="compare_models.py")


def test_valid_ranking_calls_published_figures_what_they_are_and_rescored_ones_bounds(tmp_path, capsys):
    """Independent draws are no bound for STCN-dense; the same weights with shared draws have one."""
    data, output = synthetic_strokes(tmp_path / "words"), tmp_path / "runs"
    rows = ("wavenet", "stcn-dense", "stcn-dense-published", "stcn-dense+dreg-per-step")
    options = ["--data", data, "--output", output, "--steps", 2, "--particles", 2, "--seeds", 0]
    printed = run(*options, "--rows", *rows, script="valid_ranking.py")
    ranked, _, gained = printed.partition("in brackets the gain")
    kinds = {
        cells[1]: (cells[2], cells[3])
        for cells in ([cell.strip() for cell in line.split("|")] for line in ranked.splitlines() if line[:2] == "| ")
    }
    assert "| stcn-dense+dreg-per-step |" in gained
    assert kinds == {
        "system": ("figure", "kind"),
        "wavenet": ("log-likelihood", "exact log-likelihood"),
        "stcn-dense": ("IWAE-2 per step", "lower bound"),
        "stcn-dense-published": ("2-draw estimate per step", "not a bound"),
        "stcn-dense-published, shared draws": ("IWAE-2 per step", "lower bound"),
        "stcn-dense+dreg-per-step": ("IWAE-2 per step", "lower bound"),
    }
    assert "2 updates" in (output / "table.md").read_text()
    assert (output / "table.png").stat().st_size > 1000

    folder = output / "stcn-dense-published-2-0"
    reported, shared = Score.load(folder / "score.json"), Score.load(folder / "shared-draws" / "score.json")
    assert reported.nats != shared.nats
    assert "NOT BOUNDS" in (folder / "test.txt").read_text()
    assert "lower bounds on the log-likelihood of what is scored" in (folder / "shared-draws" / "test.txt").read_text()
    assert load_model(folder / "best.safetensors")[0].config.independent_draws
    dreg = Score.load(output / "stcn-dense+dreg-per-step-2-0" / "score.json")
    assert dreg.identity["elbo"]["class"] == "DReG"
    assert dreg.identity["elbo"]["keep"] == ["sequences", "time"]
    assert "FIVO-2" in dreg.figures

    refused = run(*options, "--rows", "stcn-dens", script="valid_ranking.py", expect=1)
    assert "there is no row 'stcn-dens'; there are: ranking, search, objectives, wavenet, stcn, stcn-dense, " in refused
    assert "Traceback" not in refused

    ranking = runpy.run_path(str(ROOT / "examples" / "valid_ranking.py"))  # here and now: a process takes seconds
    args = ranking["Args"](data, ("stcn-dense-published",), (0,), steps=2, particles=2, output=output)
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.json")}
    assert len(written) == 5
    ranking["main"](args)
    again = capsys.readouterr().out
    assert "| stcn-dense-published, shared draws |" in again
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.json")} == written, "a run was made again"
    with pytest.raises(ValueError, match="holds a score on other data or of another recipe"):
        ranking["main"](replace(args, particles=3))
