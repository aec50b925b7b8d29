"""A corpus in another unit: what is streamed stays so."""

import numpy as np
import pytest

from pyro_stcn.data import DataError, Standardiser, StreamedWindows, load_corpus
from pyro_stcn.runs import in_units_of


def test_streamed_windows_are_not_read_for_another_unit(monkeypatch):
    corpus, unit = load_corpus("blizzard"), Standardiser(3.0, 7.0)
    raw = corpus.standardiser.invert(corpus.test[0].astype(np.float64))
    with monkeypatch.context() as patch:
        patch.setattr(StreamedWindows, "__getitem__", lambda *_: pytest.fail("it was read"))
        other = in_units_of(corpus, unit)
    assert other.standardiser == unit
    np.testing.assert_allclose(other.test[0], (raw - 3) / 7, rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="not one for each channel"):
        in_units_of(corpus, Standardiser((0.0,) * corpus.data_dim, (1.0,) * corpus.data_dim))
