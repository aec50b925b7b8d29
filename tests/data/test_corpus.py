import numpy as np
import pytest

from pyro_stcn.data import (
    Corpus,
    DataError,
    SequenceDataset,
    Standardiser,
    StreamedWindows,
    load_blizzard,
    synthetic_blizzard,
)


def test_in_another_unit_it_is_the_same_raw_data_and_what_is_missing_stays_missing():
    own, other = Standardiser((1.0, 2.0), (3.0, 4.0)), Standardiser(0.5, 10.0)
    raw = [np.random.default_rng(i).normal(5, 3, size=(7, 2)) for i in range(3)]
    known = np.arange(7) != 4
    parts = [SequenceDataset((own.apply(array),), (f"s{i}",), (known,)) for i, array in enumerate(raw)]
    corpus = Corpus("some", *parts, own, "Some data.").in_units_of(other)
    for array, part in zip(raw, (corpus.train, corpus.valid, corpus.test), strict=True):
        np.testing.assert_allclose(part[0][known], ((array - 0.5) / 10)[known], rtol=1e-5, atol=1e-6)
        assert (part.mask(0) == known).all()
    assert corpus.standardiser == other
    with pytest.raises(DataError, match="do not fit a standardiser of 3"):
        corpus.in_units_of(Standardiser((0.0,) * 3, (1.0,) * 3))


def test_streamed_windows_are_not_read_for_another_unit(monkeypatch):
    corpus, other = load_blizzard(synthetic_blizzard()), Standardiser(3.0, 7.0)
    raw = corpus.standardiser.invert(corpus.test[0].astype(np.float64))
    with monkeypatch.context() as patch:
        patch.setattr(StreamedWindows, "__getitem__", lambda *_: pytest.fail("it was read"))
        moved = corpus.in_units_of(other)
    np.testing.assert_allclose(moved.test[0], (raw - 3.0) / 7.0, rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="one mean and one standard deviation"):
        corpus.in_units_of(Standardiser((0.0,) * 200, (1.0,) * 200))
