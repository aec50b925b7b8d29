import re

import numpy as np
import pytest

from pyro_stcn.data.checks import (
    DataError,
    check_sequence,
    check_sequences,
    constant_channels,
    is_constant,
    remark_on_scale,
)


def ones(*shape):
    return np.ones(shape, dtype=np.float32)


def test_good_sequences_pass():
    check_sequences([ones(1, 3), ones(7, 3).astype(np.int16)], ["a", "b"])


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_values_that_are_not_finite_are_named(value, shown):
    array = ones(9, 4)
    array[6, 2] = value
    array[7, 0] = np.nan
    with pytest.raises(DataError) as error:
        check_sequence("dr1/fvmh0/sa1", array)
    message = str(error.value)
    assert "'dr1/fvmh0/sa1'" in message
    assert f"{shown} at step 6, channel 2" in message
    assert "first of 2 such values among 36" in message
    assert "cut it before" in message


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ones(3), r"'s' has shape \(3,\).*array\[:, None\]"),
        (ones(2, 3, 4), r"'s' has shape \(2, 3, 4\), expected \(T, D\)"),
        (ones(0, 4), r"'s' has shape \(0, 4\).*leave the sequence out"),
        (ones(4, 0), r"'s' has shape \(4, 0\).*at least one"),
        ([[1.0]], r"'s' is a list, expected a numpy array.*numpy.asarray"),
        (np.array([["a"]]), r"'s' has dtype <U1, expected real numbers"),
        (np.array([[1j]]), r"'s' has dtype complex128"),
    ],
)
def test_what_is_not_a_sequence_is_said_to_be_none(array, message):
    with pytest.raises(DataError, match=message):
        check_sequence("s", array)


@pytest.mark.parametrize(
    ("sequences", "names", "message"),
    [
        ([], [], "there are no sequences"),
        ([ones(2, 1)], ["a", "b"], "1 sequences and 2 names"),
        ([ones(2, 1), ones(2, 1)], ["a", "a"], "sequences 0 and 1 are both named 'a'"),
        ([ones(2, 1), ones(2, 3)], ["a", "b"], "'b' has 3 channels and sequence 'a' has 1"),
        ([ones(2, 1)], [7], "name of sequence 0 is 7, expected a string"),
    ],
)
def test_sets_that_do_not_fit_together(sequences, names, message):
    with pytest.raises(DataError, match=message):
        check_sequences(sequences, names)


def test_constant_channels_are_constant_over_all_sequences():
    a, b = ones(3, 4), ones(2, 4)
    a[1, 0] = 5  # varies within a sequence
    b[:, 2] = 5  # varies between sequences only
    assert constant_channels([a, b]) == (1, 3)
    assert constant_channels([a]) == (1, 2, 3)
    assert constant_channels([]) == ()


def test_is_constant():
    assert is_constant([ones(3), ones(2, 2)])
    assert not is_constant([ones(3), 2 * ones(2)])


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (20, 0), (0.05, 0), (1, 25)])
def test_data_of_about_unit_scale_need_no_remark(scale, offset):
    x = np.random.default_rng(0).normal(size=(3, 50, 2)) * (scale, 1) + (0, offset)
    assert remark_on_scale(x) is None


@pytest.mark.parametrize(
    ("scale", "offset", "said"),
    [((1, 500), (0, 0), "channel 1 .* standard deviation (4|5)"), ((1, 1), (100, 0), "channel 0 .* mean (99|100)")],
)
def test_raw_data_are_remarked_on_by_channel(scale, offset, said):
    x = np.random.default_rng(0).normal(size=(3, 50, 2)) * scale + offset
    assert re.search(said, remark_on_scale(x))
    assert "scale the data" in remark_on_scale(x)


def test_data_that_hardly_vary_are_remarked_on():
    assert "standard deviation" in remark_on_scale(np.random.default_rng(0).normal(size=(3, 50, 2)) * 1e-4)
