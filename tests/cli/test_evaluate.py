import csv
import io
import json
import shutil

import numpy as np
import pytest

from pyro_stcn import load_model
from pyro_stcn.cli import main
from pyro_stcn.data import load_arrays, write_wav
from pyro_stcn.evaluation import evaluate

from .conftest import refused, train


def test_a_run_is_scored_on_its_own_data_with_its_best_weights(finished, walks, tmp_path, capsys):
    main(["evaluate", str(finished), "--particles", "3", "--repeats", "2", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    corpus, net = load_arrays(walks), load_model(finished / "best.safetensors")[0]
    expected = evaluate(net, corpus.test, particles=3, repeats=2, standardiser=corpus.standardiser, progress=False)
    assert str(expected) in said
    assert str(expected) in (tmp_path / "test.txt").read_text()
    rows = list(csv.DictReader((tmp_path / "test.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == list(corpus.test.names)
    assert float(rows[0]["ELBO"]) == pytest.approx(expected.objective[0], abs=1e-9)
    figures = json.loads((tmp_path / "test.json").read_text())
    assert figures["figures"]["ELBO"]["mean"] == pytest.approx(float(np.mean(expected.objective)))
    assert figures["figures"]["ELBO"]["standard_error_of_the_draws"] > 0
    assert figures["checkpoint"].endswith("best.safetensors")
    assert figures["tightest"] == "IWAE-3 per step"


def test_another_part_of_the_data_and_a_bare_checkpoint(finished, walks, tmp_path, capsys):
    main(["evaluate", str(finished), "--part", "valid", "--particles", "2", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"valid.txt", "valid.csv", "valid.json"}
    alone = tmp_path / "alone.safetensors"
    shutil.copy(finished / "best.safetensors", alone)
    assert "--corpus and --data say what data to use" in refused(capsys, "evaluate", alone)
    words = ["--corpus", "arrays", "--data", walks, "--part", "valid", "--particles", 2, "--output", tmp_path / "two"]
    main([str(word) for word in ("evaluate", alone, *words)])
    assert (tmp_path / "two" / "valid.csv").read_text() == (tmp_path / "valid.csv").read_text()


def test_other_data_are_scored_in_the_unit_of_the_run(finished, walks, tmp_path):
    """The same test sequences beside another training part, whose own standardisation is another."""
    corpus = load_arrays(walks)
    raw = [corpus.standardiser.invert(x.astype(np.float64)) for x in corpus.test.sequences]
    for name, sequences in {"test": raw, "train": [10 * x - 7 for x in raw], "valid": raw}.items():
        np.savez(tmp_path / f"{name}.npz", **dict(zip(corpus.test.names, sequences, strict=True)))
    loader = [f"valid={tmp_path / 'valid.npz'}", f"test={tmp_path / 'test.npz'}"]
    words = ["--corpus", "arrays", "--data", str(tmp_path / "train.npz"), "--loader", *loader, "--particles", "2"]
    main(["evaluate", str(finished), "--output", str(tmp_path / "other"), *words])
    main(["evaluate", str(finished), "--output", str(tmp_path / "own"), "--particles", "2"])
    own, other = (
        json.loads((tmp_path / name).read_text())["figures"] for name in ("own/test.json", "other/test-of-arrays.json")
    )
    assert other["ELBO"]["mean"] == pytest.approx(own["ELBO"]["mean"], rel=1e-4)


def test_a_model_of_labels_is_scored_on_its_own_labels_alone(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, labels in (("own", "abcd"), ("other", "bcde")):
        lines = ["".join(rng.choice(list(labels), 9)) for _ in range(20)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    main([*train(tmp_path / "own.txt", tmp_path / "run", steps=2), "--test-particles", "0"])
    said = refused(capsys, "evaluate", tmp_path / "run", "--corpus", "arrays", "--data", tmp_path / "other.txt")
    assert "is a model of categories 'a', 'b', 'c', 'd', and categories has 'b', 'c', 'd', 'e'" in said


def test_data_that_do_not_fit_are_not_scored(tmp_path, capsys):
    """The same width is not enough: columns in another order, another rate, another kind."""
    rng = np.random.default_rng(0)
    for name, columns in (("own", "speed,heart_rate"), ("other", "heart_rate,speed")):
        (tmp_path / name).mkdir()
        for i in range(6):
            rows = "".join(f"{a:.3f},{b:.3f}\n" for a, b in rng.normal(size=(9, 2)))
            (tmp_path / name / f"{i}.csv").write_text(f"{columns}\n{rows}")
    for name, rate in (("sound", 16000), ("slow", 8000)):
        (tmp_path / name).mkdir()
        for i in range(6):
            write_wav(tmp_path / name / f"{i}.wav", rng.integers(-999, 999, 40).astype(np.int16), rate)
    np.savez(tmp_path / "reals.npz", *rng.normal(size=(6, 20, 2)))
    for trained, others in (("own", ("other", "sound")), ("sound", ("slow", "reals.npz"))):
        words = ["--test-particles", "0", "--loader", "frame=2"]
        main([*train(tmp_path / trained, tmp_path / f"run-{trained}", steps=1), *words])
        for other in others:
            words = ["--corpus", "arrays", "--data", tmp_path / other, "--loader", "frame=2"]
            said = refused(capsys, "evaluate", tmp_path / f"run-{trained}", *words)
            assert {
                "other": "is a model of real 'speed', 'heart_rate', and arrays has 'heart_rate', 'speed'",
                "sound": "is a model of real, and arrays is audio",
                "slow": "is a model of sound at 16000 Hz, and arrays has 8000 Hz: resample it",
                "reals.npz": "is a model of audio, and arrays is real",
            }[other] in said


def test_what_cannot_be_scored_is_refused(finished, walks, tmp_path, capsys):
    assert "--protocol is for the test set" in refused(
        capsys, "evaluate", finished, "--protocol", "timit/stcn", "--part", "valid"
    )
    assert "particles must be at least 1" in refused(capsys, "evaluate", finished, "--particles", 0)
    assert "expected a run folder, or a checkpoint" in refused(capsys, "evaluate", tmp_path / "nowhere")
    assert "--loader goes with --corpus" in refused(capsys, "evaluate", finished, "--loader", "frame=2")
    np.savez(tmp_path / "wide.npz", *[np.random.default_rng(i).normal(size=(9, 5)) for i in range(12)])
    said = refused(capsys, "evaluate", finished, "--corpus", "arrays", "--data", tmp_path / "wide.npz")
    assert "is a model of 2 channels, and arrays has 5" in said
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert "not a whole safetensors file" in refused(capsys, "evaluate", tmp_path / "broken.safetensors")
    shutil.copy(finished / "run.json", tmp_path)
    assert "has no checkpoint yet" in refused(capsys, "evaluate", tmp_path)


def test_a_filter_for_a_system_that_has_one(walks, tmp_path, capsys):
    main([*train(walks, tmp_path / "vrnn", "--system", "vrnn", steps=2), "--test-particles", "0"])
    main(["evaluate", str(tmp_path / "vrnn"), "--particles", "2", "--filter-particles", "3"])
    assert "FIVO-3" in capsys.readouterr().out
    assert "FIVO-3" in json.loads((tmp_path / "vrnn" / "test.json").read_text())["figures"]


def test_figures_are_not_lost_where_their_signs_cannot_be_printed(finished, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    main(["evaluate", str(finished), "--particles", "2", "--output", str(tmp_path)])
    out.flush()
    assert rb" \xb1 " in out.buffer.getvalue()
    assert " ± " in (tmp_path / "test.txt").read_text(encoding="utf-8")
