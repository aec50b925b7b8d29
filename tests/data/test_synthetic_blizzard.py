import shutil

import numpy as np
import pytest
import soundfile

from pyro_stcn.data import synthetic_blizzard as make
from pyro_stcn.data.blizzard import load_blizzard
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.recording_files import open_recordings

SMALL = {"books": 2, "chapters": 2, "seconds": 3.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), **SMALL)


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_it_is_a_tree_of_recordings_of_two_formats(root):
    assert sorted(content(root)) == [
        "SYNTHETIC.txt",
        "book-01/chapter-01.mp3",
        "book-01/chapter-02.wav",
        "book-02/chapter-01.wav",
        "book-02/chapter-02.mp3",
    ]
    for path in root.rglob("chapter*"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.format == {".mp3": "MP3", ".wav": "WAV"}[path.suffix]
        assert 3 <= info.duration <= 3.8


def test_it_sounds_like_recordings(root, tmp_path):
    tape = open_recordings(root, sample_rate=16000, decoded=tmp_path)
    x = tape.read(0, len(tape))
    assert 200 < x.std(dtype=np.float64) < 1500
    assert np.abs(x.astype(int)).max() < 2**15 - 1
    assert len({r.sha256 for r in tape.recordings}) == 4


def test_the_loader_says_that_it_is_not_blizzard(root, tmp_path):
    corpus = load_blizzard(root, streams=4, decoded=tmp_path)
    assert corpus.name == "synthetic-blizzard"
    assert corpus.description.startswith("Synthetic speech in the form of Blizzard 2013, not Blizzard: 4 recordings")


def test_equal_arguments_give_equal_bytes_and_more_leave_the_others_as_they_are(root, tmp_path):
    other_size = content(make(tmp_path, books=1, chapters=3, seconds=3.0))
    first = {name: data for name, data in content(root).items() if not name.startswith("book-02")}
    assert first.items() <= other_size.items()
    other_seed = content(make(tmp_path, books=1, chapters=2, seconds=3.0, seed=1))
    assert not {v for k, v in other_seed.items() if "chapter" in k} & set(first.values())


def test_a_corpus_from_which_something_is_missing_is_refused(root, tmp_path):
    shutil.copytree(root, tmp_path / root.name)
    next((tmp_path / root.name).rglob("*.mp3")).unlink()
    with pytest.raises(DataError, match="3 of 4 recordings are there: remove the folder"):
        make(tmp_path, **SMALL)


@pytest.mark.parametrize("wrong", [{"books": 0}, {"chapters": 0}, {"seconds": 0}, {"seed": -1}])
def test_impossible_corpora(tmp_path, wrong):
    with pytest.raises(ValueError, match="at least one book and chapter"):
        make(tmp_path, **SMALL | wrong)
    assert list(tmp_path.iterdir()) == []
