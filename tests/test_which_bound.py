"""The example that compares bounds with evidence that is known, run as a user would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMBER = r"([+-]?\d+\.\d+)"


def run(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "which_bound.py"), *map(str, arguments)]
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_no_bound_is_above_the_evidence_and_independent_draws_are(tmp_path):
    options = ["--steps", 20, "--max-particles", 16, "--repeats", 4, "--sequences", 50]
    done = run(*options, "--output", tmp_path / "a folder" / "figure.png")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "a folder" / "figure.png").stat().st_size > 20_000
    assert "causal output, IWAE per step, refused" in done.stdout
    assert "pointwise output, IWAE per step, refused" not in done.stdout
    assert done.stdout.count("NOT BOUNDS") == 1

    exact = dict(re.findall(rf"\| (\w+) output \| exact log p\(x\) \| \| {NUMBER} \|", done.stdout))
    rows = re.findall(rf"\| (\w+) output \| ([\w ]+) \| (\d+) \| {NUMBER} ± {NUMBER} \| {NUMBER} \|", done.stdout)
    found = {(system, figure, int(k)): (float(mean), float(error)) for system, figure, k, mean, error, _ in rows}
    assert len(found) == len(rows)
    kinds = {"pointwise": ("IWAE per sequence", "IWAE per step", "FIVO"), "causal": ("IWAE per sequence", "FIVO")}
    expected = {(system, kind, k) for system in kinds for kind in kinds[system] for k in (4, 16)}
    assert set(found) == expected | {(system, "ELBO", 1) for system in kinds}
    for (system, figure, k), (mean, error) in found.items():
        assert mean <= float(exact[system]) + 4 * error, f"{figure}, K = {k} is above log p(x) for {system} output"
    for system, _, _, mean, _, gap in rows:
        assert abs(float(exact[system]) - float(mean) - float(gap)) < 0.011
    for system, tight in (("pointwise", "IWAE per step"), ("causal", "FIVO")):
        for k in (4, 16):
            loose, loose_error = found[system, "IWAE per sequence", k]
            better, error = found[system, tight, k]
            assert better - 4 * error > loose + 4 * loose_error

    excess = re.findall(rf"\| ([\w -]+), (shared|independent) draws \| {NUMBER} ± {NUMBER} \|", done.stdout)
    assert len(excess) == 4
    for figure, draws, mean, error in excess:
        assert ("estimate" in figure) == (draws == "independent"), "what is no bound must not be called one"
        if draws == "shared":
            assert float(mean) <= 4 * float(error) + 0.005  # half of the last digit
        else:
            assert float(mean) > 5 > 6 * float(error)


def test_errors_teach():
    done = run("--repeats", 1)
    assert done.returncode == 1
    assert "--repeats and --sequences at least 2" in done.stderr
    assert "Traceback" not in done.stderr
