"""The corpora by name: how each is read, where its owner offers it, and a double that this library makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .arrays import load_arrays
from .checks import DataError
from .corpus import Corpus
from .deepwriting import FILES as DEEPWRITING_FILES
from .deepwriting import load_deepwriting
from .iamondb import load_iamondb
from .strokes import load_strokes
from .synthetic import synthetic_timit
from .synthetic_deepwriting import synthetic_deepwriting
from .synthetic_iamondb import synthetic_iamondb
from .synthetic_strokes import synthetic_strokes
from .timit import load_timit

__all__ = ["CORPORA", "CorpusKind", "load_corpus"]


@dataclass(frozen=True)
class CorpusKind:
    """A kind of corpus.

    :param contents: what it holds, in a few words.
    :param form: what a path to it has to be.
    :param owner: who offers the data, and on what terms; this library downloads nothing.
    :param load: reads what the owner distributes.
    :param presets: the presets that are made for it, the part of their names before the slash; None for data of any
        shape.
    :param published: whether the published tables have a column for it.
    :param y_upwards: of pen strokes, whether y grows upwards.
    :param synthetic: makes a small corpus of the same format and returns its path.
    """

    contents: str
    form: str
    owner: str
    load: Callable[[Path], Corpus]
    presets: str | None = None
    published: bool = False
    y_upwards: bool = False
    synthetic: Callable[[], Path] | None = None


def _load_deepwriting(folder: Path) -> Corpus:
    files = [folder / name for name in DEEPWRITING_FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{folder}: {' and '.join(missing)} not found: give the folder that holds both files")
    return load_deepwriting(files[0], files[1])


#: name -> :class:`CorpusKind`
CORPORA: dict[str, CorpusKind] = {
    "timit": CorpusKind(
        contents="read speech, 16 kHz",
        form="a folder in the LDC's layout or in that of NLTK's sample",
        owner="Linguistic Data Consortium, LDC93S1, against a fee; NLTK offers a sample of 16 speakers",
        load=load_timit,
        presets="timit",
        published=True,
        synthetic=synthetic_timit,
    ),
    "iamondb": CorpusKind(
        contents="lines of handwriting on a whiteboard",
        form="a folder that holds lineStrokes, train.txt and valid.txt",
        owner="the group FKI, University of Bern, to those who register, not for commerce",
        load=load_iamondb,
        presets="iamondb",
        published=True,
        y_upwards=True,
        synthetic=synthetic_iamondb,
    ),
    "deepwriting": CorpusKind(
        contents="lines and words of handwriting",
        form=f"a folder that holds {' and '.join(DEEPWRITING_FILES)}",
        owner="the authors of Deepwriting (Aksan et al. 2018), on the page of their project",
        load=_load_deepwriting,
        presets="deepwriting",
        published=True,
        synthetic=lambda: synthetic_deepwriting()[0].parent,
    ),
    "strokes": CorpusKind(
        contents="handwriting or drawings of your own, offsets and a pen bit",
        form="an .npz in the stroke-3 format",
        owner="you",
        load=load_strokes,
        presets="iamondb",
        synthetic=synthetic_strokes,
    ),
    "arrays": CorpusKind(
        contents="sequences of your own",
        form="an .npy, .npz or .csv, a recording, or a folder of such files",
        owner="you",
        load=load_arrays,
    ),
}


def load_corpus(name: str, path: Path | None = None) -> Corpus:
    """Read a corpus by the name of its kind.

    :param path: where it is; None makes and reads the synthetic one.
    :raises DataError: for a name that is not in :data:`CORPORA`, for a path that is not of the form, and as the kind's
        own loader does.
    """
    if name not in CORPORA:
        raise DataError(f"there is no kind of corpus {name!r}; there are: {', '.join(CORPORA)}")
    kind = CORPORA[name]
    if path is None:
        if kind.synthetic is None:
            raise DataError(f"of {name!r} there is no synthetic corpus: give the path of {kind.form}")
        path = kind.synthetic()
    return kind.load(Path(path))
