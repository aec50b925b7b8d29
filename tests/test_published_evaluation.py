"""Published and valid conventions side by side: the same weights and sequences, and which figure is no bound."""

import numpy as np
import pytest

from pyro_stcn.data import DataError, SequenceDataset, Standardiser
from pyro_stcn.data.corpus import Corpus
from pyro_stcn.evaluation import evaluate
from pyro_stcn.published import load_published, valid_twin
from pyro_stcn.published_evaluation import evaluate_conventions, restandardise

from .recorded import config_of, weights_of


def some_data(data_dim=4, count=3):
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(6 + i, data_dim)).astype("f4") for i in range(count)]
    return SequenceDataset(tuple(sequences), tuple(f"s{i}" for i in range(count)))


@pytest.fixture(scope="module")
def net():
    return load_published(config_of("speech_dense_gmm"), weights_of("speech_dense_gmm"))


def test_both_are_what_evaluate_says(net):
    data = some_data()
    found = evaluate_conventions(net, data, particles=4, seed=3, progress=False)
    for ours, model in ((found.published, net), (found.valid, valid_twin(net))):
        alone = evaluate(model, data, particles=4, seed=3, progress=False)
        np.testing.assert_array_equal(ours.iwae, alone.iwae)
        assert ours.evidence is model.evidence
    assert not np.allclose(found.published.iwae, found.valid.iwae)


def test_the_report_says_which_figure_is_no_bound_with_k_and_count(net):
    text = str(evaluate_conventions(net, some_data(), particles=4, progress=False))
    (published,) = [line for line in text.splitlines() if line.startswith("| published") and "not a bound" in line]
    (valid,) = [line for line in text.splitlines() if line.startswith("| valid") and "lower bound" in line]
    assert "4-draw estimate" in published
    assert "IWAE-4" in valid
    assert "±" in valid
    assert "over 3 sequences" in text
    assert text.endswith("report these (K = 4, 3 sequences).")
    assert "published conventions are NOT BOUNDS" in text
    assert "ELBO" not in published


def test_where_both_are_valid_it_says_so():
    case = "reference_plain_normal_causal"
    net = load_published(config_of(case), weights_of(case))
    found = evaluate_conventions(net, some_data(net.data_dim), particles=2, progress=False)
    assert "The figures of both are bounds, or exact" in found.verdict()
    assert "NOT BOUNDS" not in str(found)


def test_data_of_another_width_are_refused(net):
    with pytest.raises(DataError, match="the data have 3 channels, and the released model reads 4"):
        evaluate_conventions(net, some_data(3))


def test_restandardised_data_are_the_same_raw_data():
    own, other = Standardiser((1.0, 2.0), (3.0, 4.0)), Standardiser(0.5, 10.0)
    raw = [np.random.default_rng(i).normal(5, 3, size=(7, 2)) for i in range(3)]
    there = np.array([True, False, True, True, True, True, True])
    parts = [SequenceDataset((own.apply(array),), (f"s{i}",), (there,)) for i, array in enumerate(raw)]
    corpus = restandardise(Corpus("some", *parts, own, "Some data."), other)
    for array, part in zip(raw, (corpus.train, corpus.valid, corpus.test), strict=True):
        np.testing.assert_allclose(part[0][there], (array[there] - 0.5) / 10, rtol=1e-5, atol=1e-6)
        assert part.mask(0).tolist() == there.tolist()
        assert not part[0][1].any()
    assert corpus.standardiser == other
    assert corpus.description == "Some data. Standardised with given statistics, not with those of these data."
    with pytest.raises(DataError, match="do not fit a standardiser of 3"):
        restandardise(corpus, Standardiser((0.0,) * 3, (1.0,) * 3))
