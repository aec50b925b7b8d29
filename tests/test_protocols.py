"""Published ways of scoring: which steps, which pieces, which unit."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from pyro_stcn.data import SequenceDataset, Standardiser
from pyro_stcn.evaluation import evaluate
from pyro_stcn.models import MODELS, WaveNetConfig
from pyro_stcn.observation import BernoulliConfig, NormalConfig, PenStrokeConfig, PointwiseOutputConfig
from pyro_stcn.protocols import PROTOCOLS, evaluate_as

from .small import CAUSAL, POINTWISE, small_stcn

INK = PenStrokeConfig(NormalConfig())


def strokes(count, seed, scale=(5.0, 8.0)):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 9, count)
    return [np.c_[rng.normal(size=(n, 2)) * scale, rng.integers(0, 2, n)] for n in lengths]


def corpus(train, test, standardiser):
    parts = {"train": train, "test": test}
    sets = {
        part: SequenceDataset(tuple(standardiser.apply(x) for x in raw), tuple(f"{part}{i}" for i in range(len(raw))))
        for part, raw in parts.items()
    }
    return SimpleNamespace(standardiser=standardiser, **sets)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_printed_with_its_number(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    ink = not name.startswith(("timit", "blizzard"))
    rng = np.random.default_rng(0)
    raw = [strokes(12, s) if ink else [rng.normal(size=(90, 3)) * 7 for _ in range(3)] for s in (0, 1)]
    unit = Standardiser.per_channel(raw[0], keep=(2,)) if ink else Standardiser.scalar(raw[0])
    data = corpus(*raw, unit)
    net = MODELS["rnn"](3, 6, 1, 5, INK if ink else NormalConfig()).build()
    result = evaluate_as(protocol, net, data, progress=False)
    assert f"protocol {protocol}" in str(result)
    steps = sum(len(x) // 40 * 40 for x in raw[1]) if protocol.segment else sum(map(len, raw[1]))
    assert result.scored.sum() == steps - protocol.given_first * len(result.names)


def test_the_unit_of_iam_ondb_is_worth_its_constant_per_step():
    """One number for both axes, sqrt(2) times too large: exactly known, whatever the model."""
    train, test = strokes(200, 0), strokes(20, 1)
    data = corpus(train, test, Standardiser.per_channel(train, keep=(2,)))
    net = small_stcn(POINTWISE, data_dim=3, observation=INK)
    own = evaluate(net, data.test, particles=3, progress=False)
    theirs = evaluate_as(PROTOCOLS["iamondb/vrnn"], net, data, particles=3, progress=False)
    values = np.concatenate(train)[:, :2]
    std = math.sqrt((values**2).sum() / len(values) - values.mean(0).sum() ** 2)
    assert std == pytest.approx(math.sqrt(2) * values.std(), rel=0.01)
    per_step = 2 * math.log(std) - np.log(values.std(0)).sum()
    np.testing.assert_allclose(theirs.iwae_per_step, own.iwae_per_step + per_step * own.lengths, rtol=1e-6)
    a, b = (
        r.in_units()["bits per dimension, raw units"].mean
        for r in (theirs, evaluate_as(PROTOCOLS["deepwriting/stcn"], net, data, particles=3, progress=False))
    )
    assert a == pytest.approx(b), "raw units know no standardisation"


def test_a_protocol_goes_by_its_name():
    train = strokes(5, 0)
    data = corpus(train, strokes(3, 1), Standardiser.per_channel(train, keep=(2,)))
    net = MODELS["rnn"](3, 6, 1, 5, INK).build()
    named = evaluate_as("iamondb/vrnn", net, data, progress=False)
    assert named.protocol is PROTOCOLS["iamondb/vrnn"]
    with pytest.raises(ValueError, match="there is no protocol 'iamondb'; there are: timit/stcn, "):
        evaluate_as("iamondb", net, data, progress=False)


def test_pieces_are_named_and_what_is_left_over_is_dropped():
    protocol = PROTOCOLS["blizzard/vrnn"]
    data = SequenceDataset((np.random.randn(95, 2), np.random.randn(39, 2)), ("a", "b"))
    pieces = protocol.cut(data)
    assert pieces.names == ("a[0:40]", "a[40:80]")
    np.testing.assert_array_equal(pieces[1], data[0][40:80])
    with pytest.raises(ValueError, match="pieces of 40 steps are wanted, and no sequence is so long"):
        protocol.cut(data.subset([1]))


def test_a_given_first_step_is_refused_where_it_would_be_no_bound():
    data = corpus(strokes(5, 0), strokes(3, 1), Standardiser.per_channel(strokes(5, 0), keep=(2,)))
    net = small_stcn(CAUSAL, data_dim=3, observation=INK)
    with pytest.raises(ValueError, match="x_1 cannot be given"):
        evaluate_as(PROTOCOLS["iamondb/swavenet"], net, data, progress=False)


def test_pieces_of_one_recording_are_not_independent():
    rng = np.random.default_rng(0)
    test = [rng.normal(size=(120, 3)) * scale for scale in (1, 5, 20)]
    data = corpus(test, test, Standardiser.scalar(test))
    net = MODELS["rnn"](3, 6, 1, 5, NormalConfig()).build()
    result = evaluate_as(PROTOCOLS["blizzard/vrnn"], net, data, progress=False)
    assert "3 recordings in 9 pieces" in str(result)
    (_, stat), *_ = result.rows()
    means = result.log_likelihood.reshape(3, 3).mean(1)
    assert stat.count == 3
    assert stat.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(3))


def test_a_protocol_that_cannot_be_followed_is_refused_before_anything_is_scored():
    train = strokes(5, 0)
    data = corpus(train, strokes(3, 1), Standardiser.per_channel(train, keep=(2,)))
    skips = WaveNetConfig(3, (1, 2), 5, output=PointwiseOutputConfig(1, 5), predicts_first=False, observation=INK)
    with pytest.raises(ValueError, match="scores all steps, and this model does not score the first"):
        evaluate_as(PROTOCOLS["iamondb/vrnn"], skips.build(), data, progress=False)
    result = evaluate_as(PROTOCOLS["iamondb/swavenet"], skips.build(), data, progress=False)
    assert (result.scored == result.lengths - 1).all()
    net = MODELS["rnn"](3, 6, 1, 5, INK).build()
    with pytest.raises(ValueError, match="channel 2 is a bit"):
        evaluate_as(PROTOCOLS["timit/stcn"], net, data, progress=False)
    bits = MODELS["rnn"](3, 6, 1, 5, BernoulliConfig()).build()
    with pytest.raises(ValueError, match="this model gives probabilities"):
        evaluate_as(PROTOCOLS["timit/stcn"], bits, data, progress=False)
