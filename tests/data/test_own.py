import json

import numpy as np
import pytest

from pyro_stcn.configs import config_from_dict, config_to_dict
from pyro_stcn.data import DataError, StepKind, load_own, synthetic_strokes, write_wav
from pyro_stcn.observation import BernoulliConfig, CategoricalConfig, GaussianMixtureConfig, PenStrokeConfig
from pyro_stcn.presets import observation_for, stcn_for

RNG = np.random.default_rng(0)
NUMBERS = [RNG.normal(size=(n, 2)) for n in (4, 5, 6)]
STROKES = [np.column_stack([RNG.normal(size=(n, 2)), RNG.random(n) < 0.3]) for n in (40, 50, 60)]
ROLLS = [RNG.random((n, 88)) < 0.1 for n in (4, 5, 6)]


@pytest.fixture
def files(tmp_path):
    """A path of every kind of file by name."""
    np.savez(tmp_path / "numbers.npz", *NUMBERS)
    np.savez(tmp_path / "rolls.npz", *ROLLS)
    (tmp_path / "notes.json").write_text(json.dumps([[[60]], [[62]], [[64]]]))
    (tmp_path / "text.txt").write_text("abc\nbca\ncab\n")
    (tmp_path / "labels.csv").write_text("who,state\n" + "".join(f"{i % 3},{'ab'[i % 2]}\n" for i in range(9)))
    (tmp_path / "numbers.csv").write_text("who,x\n" + "".join(f"{i % 3},{i}\n" for i in range(9)))
    (tmp_path / "sound").mkdir()
    for i in range(3):
        write_wav(tmp_path / "sound" / f"{i}.wav", 1000 * RNG.normal(size=900).astype(np.float32) / 32768, 8000)
    synthetic_strokes(tmp_path / "ink")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options", "kind", "head"),
    [
        ("numbers.npz", {}, "real", GaussianMixtureConfig),
        ("numbers.csv", {"sequence_column": "who"}, "real", GaussianMixtureConfig),
        ("rolls.npz", {}, "roll", BernoulliConfig),
        ("notes.json", {}, "roll", BernoulliConfig),
        ("text.txt", {}, "categories", CategoricalConfig),
        ("labels.csv", {"sequence_column": "who"}, "categories", CategoricalConfig),
        ("sound", {}, "audio", GaussianMixtureConfig),
        ("ink", {}, "strokes", PenStrokeConfig),
    ],
)
def test_a_path_is_recognised_and_has_its_observation_model(files, name, options, kind, head):
    path = next((files / "ink").glob("*.npz")) if name == "ink" else files / name
    corpus = load_own(path, **options)
    assert corpus.kind is StepKind(kind)
    assert type(observation_for(corpus)) is head
    config = stcn_for(corpus, width=8)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    assert config.build().data_dim == corpus.data_dim


def test_what_is_in_memory_is_recognised():
    for given, kind in (
        (NUMBERS, "real"),
        (np.stack([a[:4] for a in NUMBERS]), "real"),
        (ROLLS, "roll"),
        ([[[60]], [[62, 64], []], [[1]]], "roll"),
        ([["up", "down"], ["up"], ["down"]], "categories"),
        ([np.array(["a", "b"])] * 3, "categories"),
        ([np.array([1, 2, 3]), np.array([3, 4]), np.array([1, 7])], "real"),
    ):
        assert load_own(given).kind is StepKind(kind), given


@pytest.mark.parametrize("beside", ["0_transcript.txt", "0_about.json"])
def test_what_lies_beside_recordings_or_arrays_is_not_taken_for_the_data(files, beside):
    (files / "tables").mkdir()
    (files / "numbers.npz").rename(files / "tables" / "numbers.npz")
    for folder, kind in (("sound", StepKind.AUDIO), ("tables", StepKind.REAL)):
        (files / folder / beside).write_text("[]")
        assert load_own(files / folder).kind is kind


def test_the_kind_can_be_said(files):
    assert load_own([np.array([1, 2, 3]), np.array([3, 4]), np.array([1, 7])], kind="categories").data_dim == 5
    strokes = load_own(STROKES, kind="strokes")
    assert strokes.kind is StepKind.STROKES
    assert strokes.standardiser.std[2] == 1 != strokes.standardiser.std[0]
    assert load_own([a * 1.0 for a in ROLLS], kind="real", standardise="none").kind is StepKind.REAL
    with pytest.raises(DataError, match="these data are real and not audio"):
        load_own(NUMBERS, kind="audio")
    for wrong in (NUMBERS, [s + 0.5 for s in STROKES]):
        with pytest.raises(DataError, match="three channels: dx, dy, and 1|keep names the channel 2"):
            load_own(wrong, kind="strokes")
    with pytest.raises(DataError, match="three channels: dx, dy, and 1"):
        load_own(STROKES, STROKES, [s * (1, 1, 0.5) for s in STROKES], kind="strokes")
    ink = next((files / "ink").glob("*.npz"))
    with pytest.raises(DataError, match="a stroke-3 file holds its own parts"):
        load_own(ink, ink)
    with pytest.raises(DataError, match="taken for real, whose loader has no option 'lowest'; it has: standardise, "):
        load_own(NUMBERS, lowest=3)
    with pytest.raises(DataError, match="nowhere: does not exist"):
        load_own("nowhere")


def test_sound_in_parts_by_the_names_of_files(files):
    paths = sorted((files / "sound").glob("*.wav"))
    corpus = load_own(paths[:1], paths[1:2], paths[2:], frame=100)
    assert (corpus.sample_rate, corpus.frame, len(corpus.test)) == (8000, 100, 1)


@pytest.mark.parametrize("name", ["gw_online/gw_online.stroke3.npz", "kanji/short_kanji.stroke3.npz"])
def test_real_strokes(corpora, name):
    corpus = load_own(corpora / name)
    assert corpus.kind is StepKind.STROKES
    assert isinstance(observation_for(corpus), PenStrokeConfig)
    assert {0.0, 1.0} == set(np.unique(np.concatenate([s[:, 2] for s in corpus.train.sequences])))


def test_real_recordings_split_by_the_names_of_files(corpora):
    files = sorted((corpora / "fsdd" / "recordings").glob("[01]_*.wav"))
    test = [f for f in files if int(f.stem.rpartition("_")[2]) < 5]
    corpus = load_own([f for f in files if f not in test], test=test)
    assert (corpus.kind, corpus.sample_rate) == (StepKind.AUDIO, 8000)
    assert len(corpus.test) == len(test) == 60
    assert "Test was given." in corpus.description
