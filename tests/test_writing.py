"""Lines that a model writes: their lengths, their unit, and the same again."""

import numpy as np
import pyro

from pyro_stcn import writing
from pyro_stcn.data import load_strokes, synthetic_strokes
from pyro_stcn.presets import preset
from pyro_stcn.writing import raw_lines, written_lines

LENGTHS = [8, 20, 5]


def test_lines_end_near_the_length_of_the_real_ones_and_are_in_the_files_unit(tmp_path, monkeypatch):
    corpus = load_strokes(synthetic_strokes(tmp_path, words=(12, 4, 6)))
    pyro.set_rng_seed(0)
    net = preset("iamondb/stcn-dense-gmm-small").model.build()
    lines = written_lines(net, corpus, LENGTHS)
    assert [abs(len(line) - n) <= n // 2 for line, n in zip(lines, LENGTHS, strict=True)] == [True] * 3
    assert set(np.unique(np.concatenate(lines)[:, 2])) <= {0.0, 1.0}
    assert np.concatenate(lines)[:, :2].std() > 5, "those of the file are about 20"
    again = written_lines(net, corpus, LENGTHS)
    other = written_lines(net, corpus, LENGTHS, seed=1)
    sharp = written_lines(net, corpus, LENGTHS, temperature=0.01)
    assert all(np.array_equal(a, b) for a, b in zip(lines, again, strict=True))
    assert not np.array_equal(lines[1], other[1])
    assert np.concatenate(sharp)[:, :2].std() < np.concatenate(lines)[:, :2].std()
    monkeypatch.setattr(writing, "TOGETHER", 2)
    assert len(written_lines(net, corpus, LENGTHS)) == 3


def test_raw_lines_are_those_of_the_file(tmp_path):
    corpus = load_strokes(synthetic_strokes(tmp_path, words=(12, 4, 6)))
    (line,) = raw_lines(corpus, [corpus.test[0]])
    np.testing.assert_allclose(line, np.rint(line), atol=1e-3)
    np.testing.assert_allclose(corpus.standardiser.apply(line), corpus.test[0], atol=1e-5)
