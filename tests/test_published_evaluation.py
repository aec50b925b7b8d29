"""Published and valid conventions side by side: the same weights and sequences, and which figure is no bound."""

import numpy as np
import pytest

from pyro_stcn.data import DataError, SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.published import load_published, valid_twin
from pyro_stcn.published_evaluation import evaluate_conventions

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
