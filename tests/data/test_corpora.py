from pathlib import Path

import numpy as np
import pytest

from pyro_stcn.data import CORPORA, DataError, load_corpus, synthetic_timit
from pyro_stcn.data.corpora import loader_options
from pyro_stcn.presets import PRESETS


@pytest.mark.parametrize("name", [name for name, kind in CORPORA.items() if kind.synthetic])
def test_the_synthetic_corpus_is_read_by_name_and_fits_the_presets(name):
    corpus = load_corpus(name)
    family = f"{CORPORA[name].presets}/"
    assert {p.model.data_dim for key, p in PRESETS.items() if key.startswith(family)} == {corpus.data_dim}


def test_an_unknown_kind_is_refused_with_the_names_there_are():
    with pytest.raises(DataError, match=r"no kind of corpus 'librispeech'; there are: timit"):
        load_corpus("librispeech")


def test_own_arrays_need_a_path():
    with pytest.raises(DataError, match=r"give the path of an \.npy"):
        load_corpus("arrays")


def test_deepwriting_without_its_files_says_which(tmp_path: Path):
    with pytest.raises(DataError, match="deepwriting_v2_training.npz and deepwriting_v2_validation.npz not found"):
        load_corpus("deepwriting", tmp_path)


def test_the_options_of_a_loader_go_through(tmp_path):
    folder = synthetic_timit(tmp_path, speakers=(4, 1), sentences=2)
    assert load_corpus("timit", folder, frame=100, validation="files").data_dim == 100
    with pytest.raises(DataError, match="the loader of 'timit' has no option 'fram'; it has: frame, segment, "):
        load_corpus("timit", folder, fram=100)
    with pytest.raises(DataError, match="the loader of 'timit' cannot take frame='wide': "):
        load_corpus("timit", folder, frame="wide")
    assert list(loader_options("deepwriting")) == ["split", "valid_fraction", "seed", "max_bytes"]
    assert {"valid", "test", "sequence_column", "keep"} <= set(loader_options("arrays"))


@pytest.mark.parametrize("name", CORPORA)
def test_every_option_of_a_loader_is_explained(name):
    for option, about in loader_options(name).items():
        assert len(about.meaning) > 10, option
        assert not about.choices or str(about.default) in about.choices or about.default is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1.5}, "cannot take seed=1.5: expected a whole number"),
        ({"seed": True}, "cannot take seed=True: expected a whole number"),
        ({"valid_fraction": "half"}, "cannot take valid_fraction='half': expected a number"),
        ({"include_sa": 1}, "cannot take include_sa=1: expected true or false"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(options, said):
    with pytest.raises(DataError, match=said):
        load_corpus("timit", **options)


def test_names_of_options_may_be_those_of_its_arguments(tmp_path):
    np.savez(tmp_path / "a.npz", *np.random.default_rng(0).normal(size=(4, 5, 2)))
    assert load_corpus("arrays", tmp_path / "a.npz", name="mine").name == "mine"
    with pytest.raises(DataError, match=r"keep names the channel 0\.5: expected its number from 0, or its name"):
        load_corpus("arrays", tmp_path / "a.npz", keep=[0.5])


def test_what_a_loader_may_be_told_is_taken(tmp_path):
    """None where the loader says so, and NumPy's numbers."""
    root = synthetic_timit()
    whole = load_corpus("timit", root, segment=None, seed=np.int64(0), valid_fraction=np.float32(0.2))
    assert len(set(whole.train.lengths.tolist())) > 1
    assert loader_options("timit")["segment"].optional
