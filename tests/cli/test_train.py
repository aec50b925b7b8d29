import json
import os
import shutil
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch

from pyro_stcn import training
from pyro_stcn.checkpoint import load_tensors
from pyro_stcn.cli import main
from pyro_stcn.data import synthetic_strokes
from pyro_stcn.presets import preset
from pyro_stcn.runs import Run

from .conftest import refused, train


def weights(folder, name="last"):
    return load_tensors(folder / f"{name}.safetensors")[0]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_run_folder_says_what_was_done(finished, walks):
    record = json.loads((finished / "run.json").read_text())
    recipe, made = record["recipe"], record["made"]
    assert recipe["data"] == str(walks.resolve())
    assert set(recipe["digests"]) == {"train", "valid", "test"}
    assert (recipe["training"]["steps"], recipe["training"]["seed"]) == (4, 3)
    assert recipe["objective"] == {"name": "meanfield", "particles": 1, "floor": 0.05}
    assert recipe["model"]["data_dim"] == 2
    assert made["versions"]["torch"] == torch.__version__
    assert {"python", "pyro", "numpy", "pyro_stcn"} <= set(made["versions"])
    assert made["command"]
    assert made["date"]
    for name in ("best.safetensors", "last.safetensors", "train.csv", "valid.csv", "log.txt", "test.csv", "test.txt"):
        assert (finished / name).stat().st_size > 0, name
    figures = json.loads((finished / "test.json").read_text())
    assert figures["particles"] == 2
    assert figures["evidence"] == "lower bound"
    assert {"ELBO", "IWAE-2 per step", "KL z1"} <= set(figures["figures"])
    assert "4 steps, all steps made" in (finished / "log.txt").read_text()
    facts = load_tensors(finished / "best.safetensors")[1]["facts"]
    assert facts["kind"] == "real"
    assert min(facts["standardiser"]["mean"]) > 20


def test_a_run_is_made_again_from_its_folder_alone(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.randn(7)  # the state of the generator before does not matter
    main(["train", "--again", str(finished), "--output", "second", "--test-particles", "2"])
    assert_same(weights(finished), weights(tmp_path / "second"))
    assert_same(weights(finished, "best"), weights(tmp_path / "second", "best"))
    assert (finished / "test.csv").read_text() == (tmp_path / "second" / "test.csv").read_text()
    assert Run.open(finished).recipe == Run.open(tmp_path / "second").recipe


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_from_its_folder_alone(finished, walks, tmp_path, monkeypatch, capsys, kind):
    folder, update = tmp_path / "cut short", training._Run.update

    def interrupted(self):
        row = update(self)
        if self.step == 3:
            os.kill(os.getpid(), kind)
        return row

    monkeypatch.setattr(training._Run, "update", interrupted)
    said = refused(capsys, *train(walks, folder), code=130)
    assert f"stopped by {kind.name}. Go on with: pyro-stcn train --resume '{folder}'" in said
    assert load_tensors(folder / "last.safetensors")[1]["step"] == 3
    monkeypatch.setattr(training._Run, "update", update)
    monkeypatch.chdir(tmp_path)
    main(["train", "--resume", str(folder), "--test-particles", "2"])
    assert_same(weights(finished), weights(folder))
    assert (finished / "test.csv").read_text() == (folder / "test.csv").read_text()


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_from_the_start(finished, walks, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.json", folder)
    main(["train", "--resume", str(folder), "--test-particles", "0"])
    assert_same(weights(finished), weights(folder))
    assert not (folder / "test.txt").exists()


def test_ctrl_c_outside_the_updates_says_how_to_go_on_too(walks, tmp_path, monkeypatch, capsys):
    def pressed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_stcn.cli.train.evaluate", pressed)
    said = refused(capsys, *train(walks, tmp_path / "run"), "--test-particles", 7, code=130)
    assert "interrupted. Go on with: pyro-stcn train --resume" in said
    assert said.endswith("run --test-particles 7\n")


def test_more_steps_are_a_resumed_run(finished, walks, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(finished, folder)
    main(["train", "--resume", str(folder), "--steps", "6", "--test-particles", "0"])
    assert load_tensors(folder / "last.safetensors")[1]["step"] == 6
    assert Run.open(folder).recipe.training.steps == 6
    main([*train(walks, tmp_path / "at once", steps=6), "--test-particles", "0"])
    assert_same(weights(tmp_path / "at once"), weights(folder))


def test_data_that_moved_are_found_with_data_and_changed_data_are_refused(walks, tmp_path, capsys):
    here, there, folder = tmp_path / "here" / "a.npz", tmp_path / "there" / "a.npz", tmp_path / "run"
    for path in (here, there):
        path.parent.mkdir()
    shutil.copy(walks, here)
    main([*train(here, folder, steps=2), "--test-particles", "0"])
    here.rename(there)
    said = refused(capsys, "train", "--resume", folder)
    assert f"{here}, the data of {folder}, is not there: --data PATH says where it is now" in said
    main(["train", "--resume", str(folder), "--data", str(there), "--steps", "4", "--test-particles", "0"])
    assert Run.open(folder).recipe.data == there.resolve()
    main(["train", "--resume", str(folder), "--test-particles", "0"])

    arrays = dict(np.load(there))
    arrays["walk0"] = arrays["walk0"] + 0.5
    np.savez(there, **arrays)
    for words in (("--resume", folder), ("--again", folder, "--output", tmp_path / "second")):
        said = refused(capsys, "train", *words)
        assert f"{there} does not hold the data of {folder}: " in said
        assert "differ in names or values (SHA-256 was " in said
    assert not (tmp_path / "second").exists()


def test_a_folder_with_another_run_is_refused(finished, walks, tmp_path, capsys):
    assert "holds a run already: go on with `pyro-stcn train --resume" in refused(capsys, *train(walks, finished))
    shutil.copy(finished / "last.safetensors", tmp_path)
    assert "holds a run already" in refused(capsys, *train(walks, tmp_path))
    assert "holds a run already" in refused(capsys, "train", "--again", finished, "--output", finished)


def test_what_cannot_be_is_refused_before_there_is_a_folder(walks, tmp_path, capsys):
    new = tmp_path / "new"

    def said(*more):
        text = refused(capsys, *train(walks, new), *more)
        assert not new.exists()
        return text

    assert "there is no preset 'timit/stcn-dens'" in said("--preset", "timit/stcn-dens")
    assert "RNN has no particle filter" in said("--system", "rnn", "--objective", "fivo")
    assert "steps of this VRNN are not independent" in said("--system", "vrnn", "--objective", "iwae-per-step")
    assert "has no place: --auxiliary-start 0" in said("--system", "zforcing", "--objective", "fivo")
    assert "bfloat16_blocks (--bfloat16) is for convolution blocks" in said("--system", "rnn", "--bfloat16")
    assert "is for 200 channels, and these data have 2" in said("--preset", "timit/stcn-dense-gmm-small")
    assert "there is no system 'vrn'; there are: vrnn" in said("--system", "vrn")
    assert "leave --system and --observation out" in said("--preset", "timit/rnn-gmm", "--system", "rnn")
    assert "freebits has one particle" in said("--objective", "freebits", "--particles", "2")
    assert "--free-bits is for --objective freebits" in said("--free-bits", "0.1")
    assert "batch_size must be at least 1" in said("--batch-size", "0")
    assert "seed must be from 0 to 4294967295, not -1" in said("--seed", "-1")
    assert "--device cuda:77" in said("--device", "cuda:77")
    assert "the loader of arrays has no 'fram'; it has: valid, test, kind, standardise" in said("--loader", "fram=3")
    assert "expected NAME=VALUE" in said("--loader", "frame")
    assert "cannot take frame='wide'" in said("--loader", "frame=wide")
    holes = tmp_path / "holes.csv"
    holes.write_text("x,y\n" + "1,2\n,3\n" * 9)
    assert "Here: --loader missing=..." in said("--data", str(holes))  # the loader speaks of its argument
    assert "there is nothing; expected an .npy" in said("--data", str(tmp_path / "nowhere"))
    assert "--corpus says how to read the data" in refused(capsys, "train", "--data", walks)
    assert "give one of them" in said("--resume", str(new), "--again", str(new))


def test_resume_and_again_take_no_other_options(finished, tmp_path, capsys):
    assert "leave --system out" in refused(capsys, "train", "--resume", finished, "--system", "rnn")
    assert "leave --batch-size out" in refused(capsys, "train", "--resume", finished, "--batch-size", 2)
    assert "steps already" in refused(capsys, "train", "--resume", finished, "--steps", 1)
    assert "leave --corpus out" in refused(capsys, "train", "--resume", finished, "--corpus", "timit")
    assert "leave --steps out" in refused(capsys, "train", "--again", finished, "--steps", 2, "--output", tmp_path)
    assert "--again needs --output" in refused(capsys, "train", "--again", finished)
    assert "is no run folder: there is no run.json in it" in refused(capsys, "train", "--resume", tmp_path)


def test_a_run_that_cannot_go_on_on_another_device_is_left_as_it_was(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    before = record.read_bytes()
    said = refused(capsys, "train", "--resume", tmp_path / "run", "--device", "cpu")
    assert "--device cpu: a run that began on cuda cannot go on on cpu" in said
    assert record.read_bytes() == before
    assert "--device meta: holds no numbers" in refused(capsys, "train", "--resume", finished, "--device", "meta")


def test_a_record_that_was_tampered_with_is_refused(finished, tmp_path, capsys):
    record = json.loads((finished / "run.json").read_text())
    for change in (
        {"format": "other/1"},
        {"recipe": record["recipe"] | {"model": {"type": "os.system"}}},
        {"recipe": record["recipe"] | {"training": {"steps": 4}}},
        {"recipe": record["recipe"] | {"threads": "many"}},
        {"recipe": {}},
    ):
        (tmp_path / "run.json").write_text(json.dumps(record | change))
        assert str(tmp_path / "run.json") in refused(capsys, "train", "--resume", tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(record)[:-9])
    assert "is damaged" in refused(capsys, "train", "--resume", tmp_path)


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("vrnn", ("--objective", "fivo", "--particles", "2")),
        ("stcn-dense", ("--objective", "iwae-per-step")),
        ("stcn", ("--objective", "freebits", "--free-bits", "0.1", "--observation", "normal")),
        ("wavenet", ("--clip-norm", "inf", "--bfloat16", "--mean-over-steps", "False")),
    ],
)
def test_systems_and_objectives_on_own_data(walks, tmp_path, system, options):
    folder = tmp_path / system
    main([*train(walks, folder, "--system", system, *options, steps=2), "--test-particles", "0"])
    recipe = Run.open(folder).recipe
    meta = load_tensors(folder / "last.safetensors")[1]
    assert meta["training"] == asdict(recipe.training)
    if system == "wavenet":
        assert recipe.training.clip_norm == float("inf")
        assert recipe.training.bfloat16_blocks
        assert not recipe.training.mean_over_steps
    else:
        assert meta["elbo"]["class"] == {"vrnn": "FIVO", "stcn-dense": "IWAE", "stcn": "FreeBits"}[system]


def test_handwriting_gets_its_small_preset(tmp_path):
    folder, data = tmp_path / "words", synthetic_strokes(tmp_path / "corpus")
    main([*train(data, folder, corpus="strokes", steps=2), "--test-particles", "0"])
    assert Run.open(folder).recipe.model == preset("iamondb/stcn-dense-gmm-small").model


def test_a_system_without_latents_is_told_nothing_of_their_weight(walks, tmp_path, capsys):
    for system, told in (("rnn", False), ("stcn", True)):
        main([*train(walks, tmp_path / system, "--system", system, steps=1), "--test-particles", "0"])
        assert ("The KL weight reaches only" in capsys.readouterr().out) == told
