"""The corpora by name: how each is read, where its owner offers it, and a double that this library makes."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .blizzard import load_blizzard
from .checks import Choice, DataError
from .corpus import Corpus
from .deepwriting import FILES as DEEPWRITING_FILES
from .deepwriting import load_deepwriting
from .iamondb import load_iamondb
from .own import OWN_LOADERS, load_own
from .strokes import load_strokes
from .synthetic import synthetic_timit
from .synthetic_blizzard import synthetic_blizzard
from .synthetic_deepwriting import synthetic_deepwriting
from .synthetic_iamondb import synthetic_iamondb
from .synthetic_strokes import synthetic_strokes
from .timit import load_timit

__all__ = ["CORPORA", "CorpusKind", "LoaderOption", "load_corpus", "loader_options"]


@dataclass(frozen=True)
class CorpusKind:
    """A kind of corpus.

    :param contents: what it holds, in a few words.
    :param form: what a path to it has to be.
    :param owner: who offers the data, and on what terms; this library downloads nothing.
    :param load: reads what the owner distributes, from a path and options by name.
    :param presets: the presets that are made for it, the part of their names before the slash; None for data of any
        shape.
    :param published: whether the published tables have a column for it.
    :param y_upwards: of pen strokes, whether y grows upwards.
    :param synthetic: makes a small corpus of the same format and returns its path.
    """

    contents: str
    form: str
    owner: str
    load: Callable[..., Corpus]
    presets: str | None = None
    published: bool = False
    y_upwards: bool = False
    synthetic: Callable[[], Path] | None = None


@functools.wraps(load_deepwriting)  # it has the same options
def _load_deepwriting(folder: Path, **options: Any) -> Corpus:
    files = [folder / name for name in DEEPWRITING_FILES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{folder}: {' and '.join(missing)} not found: give the folder that holds both files")
    return load_deepwriting(files[0], files[1], **options)


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
    "blizzard": CorpusKind(
        contents="books read aloud by one speaker, 16 kHz, streamed",
        form="a folder of long recordings at any depth, 16 kHz, mono, in any format that libsndfile reads",
        owner="the organisers of the Blizzard Challenge 2013 (CSTR, University of Edinburgh, with Lessac Technologies) "
        "to those who register and sign its licence: https://www.synsig.org/index.php/Blizzard_Challenge_2013",
        load=load_blizzard,
        presets="blizzard",
        published=True,
        synthetic=synthetic_blizzard,
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
        contents="sequences of your own: numbers, recordings, strokes, notes or labels",
        form="an .npy, .npz, .csv, .json or .txt, a recording, or a folder of such files",
        owner="you",
        load=load_own,
    ),
}


def load_corpus(name: str, path: Path | None = None, /, **options: Any) -> Corpus:
    """Read a corpus by the name of its kind.

    :param path: where it is; None makes and reads the synthetic one.
    :param options: of the kind's own loader, by name: ``sequence_column`` of ``load_arrays``, ``validation`` of
        ``load_timit`` and so on.
    :raises DataError: for a name that is not in :data:`CORPORA`, for a path that is not of the form, for an option that
        the loader does not have or cannot take, and as the loader does.
    """
    if name not in CORPORA:
        raise DataError(f"there is no kind of corpus {name!r}; there are: {', '.join(CORPORA)}")
    kind = CORPORA[name]
    known = loader_options(name)
    if unknown := [option for option in options if option not in known]:
        raise DataError(f"the loader of {name!r} has no option {unknown[0]!r}; it has: {', '.join(known)}")
    options = {option: v.item() if isinstance(v, np.generic) else v for option, v in options.items()}
    for option, value in options.items():
        _check_type(name, option, value, known[option])
    if path is None:
        if kind.synthetic is None:
            raise DataError(f"of {name!r} there is no synthetic corpus: give the path of {kind.form}")
        path = kind.synthetic()
    try:
        return kind.load(Path(path), **options)
    except TypeError as error:  # an option of another type than the loader expects
        if not options:
            raise
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise DataError(f"the loader of {name!r} cannot take {given}: {error}") from error


def _check_type(name: str, option: str, value: Any, about: LoaderOption) -> None:
    """Refuse what is no number where the default is one.

    :raises DataError: naming the option.
    """
    if value is None and about.optional:
        return
    flag, kind = isinstance(value, bool), type(about.default)
    expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind)
    fits = {
        bool: flag,
        int: isinstance(value, int) and not flag,
        float: isinstance(value, int | float) and not flag,
    }
    if expected is not None and not fits[kind]:
        raise DataError(f"the loader of {name!r} cannot take {option}={value!r}: expected {expected}")


@dataclass(frozen=True)
class LoaderOption:
    """An option of a loader.

    :param default: what it is where it is not given.
    :param meaning: as the loader documents it.
    :param choices: the values that there are, where these are few.
    :param optional: whether None may be given.
    """

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    optional: bool = False


def loader_options(name: str) -> dict[str, LoaderOption]:
    """Return the options that a kind's loader has, by name, beside what it reads."""
    load = CORPORA[name].load
    options: dict[str, LoaderOption] = {}
    for loader in (load, *OWN_LOADERS) if load is load_own else (load,):
        meanings = re.findall(r"^:param (\w+): (.*(?:\n +.*)*)", inspect.getdoc(loader) or "", re.MULTILINE)
        said = {option: " ".join(text.split()) for option, text in meanings}
        types = typing.get_type_hints(loader)
        for parameter in list(inspect.signature(loader).parameters.values())[1:]:
            known = options.get(parameter.name)
            if parameter.default is not parameter.empty and not (known and known.meaning):
                kinds = [t for t in typing.get_args(types[parameter.name]) if isinstance(t, type)]
                optional = types[parameter.name] is Any or type(None) in kinds
                choices = tuple(str(choice) for kind in kinds if issubclass(kind, Choice) for choice in kind)
                found = LoaderOption(parameter.default, said.get(parameter.name, ""), choices, optional)
                options[parameter.name] = found
    return options
