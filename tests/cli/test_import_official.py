"""``import-official``: two checkpoints, what is said of them, and what is refused before anything is written."""

import json

import numpy as np
import pytest
import torch
import tyro

from pyro_stcn.checkpoint import CheckpointError, load_model
from pyro_stcn.cli.import_official import ImportOfficial
from pyro_stcn.data import DataError, Standardiser, write_strokes
from pyro_stcn.models import Evidence
from pyro_stcn.published import load_published

from ..recorded import FIXTURES, PATHS, config_of, weights_of, with_slots
from ..tensor_bundle import write_bundle


def call(*words):
    tyro.cli(ImportOfficial, args=[str(word) for word in words]).run()


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    write_bundle(folder / "model-9", with_slots(weights_of("ink_dense_gmm")))
    (folder / "config.json").write_text(json.dumps(config_of("ink_dense_gmm")))
    return folder


@pytest.fixture
def lines(tmp_path):
    """A tiny corpus in the stroke-3 format."""
    rng = np.random.default_rng(0)

    def part(count):
        steps = [np.column_stack([rng.normal(3, 5, (8, 2)), rng.integers(0, 2, 8)]) for _ in range(count)]
        return [step.astype("f4") for step in steps]

    return write_strokes(tmp_path / "lines.npz", part(6), part(2), part(3))


def test_two_checkpoints_with_the_same_weights(release, tmp_path, capsys):
    call(release, "--output", tmp_path / "out" / "a.safetensors")
    published, facts = load_model(tmp_path / "out" / "a.safetensors")
    valid, valid_facts = load_model(tmp_path / "out" / "a-valid.safetensors")
    expected = load_published(config_of("ink_dense_gmm"), weights_of("ink_dense_gmm"))
    assert published.config == expected.config
    assert published.config.independent_draws
    assert published.config.ladder.merge == valid.config.ladder.merge == "eq11"
    for name, value in expected.state_dict().items():
        assert torch.equal(published.state_dict()[name], value)
        assert torch.equal(valid.state_dict()[name], value)
    assert (published.evidence, valid.evidence) == (Evidence.ESTIMATE, Evidence.LOWER_BOUND)
    assert (facts["conventions"], valid_facts["conventions"]) == ("published", "valid")
    assert facts["source"] == {"checkpoint": "model-9", "config": config_of("ink_dense_gmm")}
    assert "standardiser" not in facts["facts"]
    said = capsys.readouterr().out
    assert "86 variables" in said
    assert "2,761 parameters" in said
    assert "Adam's moments (172)" in said
    assert "a.safetensors: published conventions, not a bound" in said
    assert "a-valid.safetensors: valid conventions, lower bound" in said


def test_files_of_tensorflow_and_a_configuration_elsewhere(tmp_path):
    call(FIXTURES / "tensorflow", "--config", PATHS["vrnn_gmm_zero_noise"], "--output", tmp_path / "v.safetensors")
    net, _ = load_model(tmp_path / "v-valid.safetensors")
    assert net.evidence is Evidence.LOWER_BOUND


def test_side_by_side_on_data_in_the_units_of_the_release(release, lines, tmp_path, capsys):
    mean, std = np.array([1.0, 2.0, 0.0]), np.array([4.0, 6.0, 1.0])
    np.savez(tmp_path / "data.npz", statistics={"mean_channel": mean, "std_channel": std})
    config = config_of("ink_dense_gmm") | {"data_type": "dw"}
    (release / "config.json").write_text(json.dumps(config))
    options = ("--output", tmp_path / "a.safetensors", "--corpus", "strokes", "--data", lines, "--particles", 3)
    call(release, *options, "--statistics", tmp_path / "data.npz")
    said = capsys.readouterr().out
    assert "| published conventions | 3-draw estimate per step | not a bound |" in said
    assert "| valid conventions | IWAE-3 per step | lower bound |" in said
    assert "over 3 sequences" in said
    assert "unit: nats of data divided by 4, 6, 1" in said
    assert "Scored: the test set." in said
    kept = load_model(tmp_path / "a.safetensors")[1]["facts"]["standardiser"]
    assert Standardiser.from_dict(kept) == Standardiser((1.0, 2.0, 0.0), (4.0, 6.0, 1.0))


def test_without_statistics_it_says_that_the_units_may_differ(release, lines, tmp_path, capsys):
    options = ("--output", tmp_path / "a.safetensors", "--corpus", "strokes", "--data", lines, "--part", "valid")
    call(release, *options, "--particles", 2)
    said = capsys.readouterr().out
    assert "These may not be the units of the release's training data" in said
    assert "over 2 sequences" in said


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--output", "a.pt"], ValueError, "does not end in .safetensors"),
        (["--output", "a.safetensors", "--data", "x"], ValueError, "--data needs --corpus"),
        (["--output", "a.safetensors", "--config", "gone.json"], CheckpointError, "gone.json does not exist"),
        (["--output", "a.safetensors", "--statistics", "gone.npz"], DataError, "gone.npz"),
        (["--output", "a.safetensors", "--corpus", "strokes", "--data", "gone.npz"], DataError, "gone.npz"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(release, tmp_path, monkeypatch, words, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call(release, *words)
    assert not list(tmp_path.glob("*.safetensors"))


def test_nothing_is_overwritten(release, tmp_path):
    for name in ("a.safetensors", "a-valid.safetensors"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} is there"):
            call(release, "--output", tmp_path / "a.safetensors")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_an_unknown_kind_of_corpus_is_a_wrong_option(release, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        call(release, "--output", tmp_path / "a.safetensors", "--corpus", "other")
    assert left.value.code == 2
    assert "iamondb" in capsys.readouterr().err
