import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyro_stcn.data.checks import DataError
from pyro_stcn.data.standardise import Standardiser


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((n, 3)) * [1, 10, 0.1] + [0, 50, -3]) for n in (5, 90, 1)]


def test_scalar_is_the_mean_and_std_of_all_values(sequences):
    s = Standardiser.scalar(sequences)
    values = np.concatenate([a.ravel() for a in sequences])
    assert s.mean == pytest.approx(values.mean(), rel=1e-14)
    assert s.std == pytest.approx(values.std(), rel=1e-14)
    assert isinstance(s.mean, float)


def test_per_channel_is_the_mean_and_std_of_all_steps(sequences):
    s = Standardiser.per_channel(sequences, keep=(2,))
    values = np.concatenate(sequences)
    np.testing.assert_allclose(s.mean[:2], values.mean(0)[:2], rtol=1e-14)
    np.testing.assert_allclose(s.std[:2], values.std(0)[:2], rtol=1e-14)
    assert (s.mean[2], s.std[2]) == (0.0, 1.0)
    applied = np.concatenate([s.apply(a) for a in sequences])
    assert applied.dtype == np.float32
    np.testing.assert_allclose(applied.mean(0)[:2], 0, atol=1e-6)
    np.testing.assert_allclose(applied.std(0)[:2], 1, rtol=1e-6)
    np.testing.assert_array_equal(applied[:, 2], values[:, 2].astype(np.float32))


def test_statistics_of_int16_do_not_overflow():
    samples = np.full(100_000, 32767, dtype=np.int16)
    samples[::2] = -32768
    s = Standardiser.scalar([samples])
    assert s.mean == -0.5
    assert s.std == 32767.5


def test_a_large_offset_costs_no_accuracy():
    x = 1e6 + np.random.default_rng(0).standard_normal((20_000, 1))
    assert Standardiser.scalar([x]).std == pytest.approx(x.std(), rel=1e-9)


@given(
    arrays(np.int16, (7, 2)),
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e4),
    st.booleans(),
)
def test_invert_undoes_apply(x, mean, std, per_channel):
    s = Standardiser((mean, 0.0), (std, 1.0)) if per_channel else Standardiser(mean, std)
    np.testing.assert_allclose(s.invert(s.apply(x)), x, rtol=1e-5, atol=1e-2)
    tensor = torch.from_numpy(x.astype(np.float64))
    back = s.invert(s.apply(tensor))
    assert back.dtype == torch.float64
    np.testing.assert_allclose(back.numpy(), x, rtol=1e-12, atol=1e-7)


def test_arrays_and_tensors_agree(sequences):
    s = Standardiser.per_channel(sequences)
    x = sequences[1]
    np.testing.assert_allclose(s.apply(torch.from_numpy(x)).numpy(), s.apply(x), rtol=1e-6)


def test_log_jacobian_turns_a_standardised_density_into_a_raw_one(sequences):
    raw = torch.distributions.Normal(torch.tensor([1.0, 20, -3]), torch.tensor([2.0, 5, 0.3]))
    x = torch.tensor(sequences[0], dtype=torch.float32)
    for s in (Standardiser.per_channel(sequences), Standardiser.scalar(sequences)):
        standardised = torch.distributions.Normal(
            s.apply(raw.loc), raw.scale / torch.tensor(s.std, dtype=torch.float32)
        )
        step = standardised.log_prob(s.apply(x)).sum(-1) + s.log_jacobian(3)
        torch.testing.assert_close(step, raw.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)


def test_log_jacobian_of_a_scalar_counts_every_channel():
    assert Standardiser(0.0, 546.2).log_jacobian(200) == pytest.approx(-200 * math.log(546.2))


@pytest.mark.parametrize("s", [Standardiser(0.1, 1 / 3), Standardiser((0.1, 2.0), (1 / 3, 7.0))])
def test_json_keeps_it_exactly(s):
    assert Standardiser.from_dict(json.loads(json.dumps(s.to_dict()))) == s


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Standardiser.scalar([]), "no values"),
        (lambda: Standardiser.scalar([np.full((3, 2), 0.1)]), "every value.*is the same"),
        (lambda: Standardiser.per_channel([]), "no steps"),
        (
            # 0.1 is not exact in binary: a std computed from it is not exactly 0
            lambda: Standardiser.per_channel([np.array([[1, 0.1], [2, 0.1], [4, 0.1]])]),
            r"channels \[1\] hold one value.*keep=\[1\]",
        ),
        (lambda: Standardiser(0.0, 0.0), "must be positive"),
        (lambda: Standardiser((0.0,), 1.0), "mean has shape"),
        (lambda: Standardiser(0.0, math.nan), "must be finite"),
        (lambda: Standardiser((0.0, 0.0), (1.0, 1.0)).apply(np.zeros((4, 3))), "do not fit"),
        (lambda: Standardiser((0.0, 0.0), (1.0, 1.0)).log_jacobian(3), "2 channels"),
    ],
)
def test_what_cannot_be_standardised_says_why(make, message):
    with pytest.raises(DataError, match=message):
        make()
