"""Options that several commands have, and what they mean."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyro
import torch
import tyro

from ..data import CORPORA, Corpus, DataError, load_corpus
from ..data.corpora import loader_options

__all__ = ["CorpusName", "Data", "pick_device", "set_seed"]

if TYPE_CHECKING:
    CorpusName = str
else:
    CorpusName = tyro.extras.literal_type_from_choices(CORPORA)

# Options that name files or folders: a run folder has to find them from anywhere.
_PATHS = ("train", "valid", "test", "decoded")


@dataclass
class Data:
    """The data."""

    corpus: Annotated[
        CorpusName | None, tyro.conf.arg(metavar="{" + ",".join(CORPORA) + "}", help_behavior_hint="")
    ] = None
    """How to read --data (pyro-stcn data list says what each is)."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Where the data are; without, a synthetic corpus is made where there is one, or the run's own data are used."""
    loader: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...", help_behavior_hint="")] = ()
    """Options of the corpus's loader, such as frame=160 or sequence_column=subject for arrays, validation=files for
    timit."""

    def options(self) -> dict[str, Any]:
        """Return the loader's options by name; a value is JSON, or text.

        :raises ValueError: for one without "=", and for a name that the loader does not have.
        """
        found: dict[str, Any] = {}
        for text in self.loader:
            name, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"--loader {text}: expected NAME=VALUE")
            if self.corpus and name not in loader_options(self.corpus):
                there = ", ".join(loader_options(self.corpus))
                raise ValueError(f"--loader {text}: the loader of {self.corpus} has no {name!r}; it has: {there}")
            try:
                found[name] = json.loads(value)
            except ValueError:
                found[name] = str(Path(value).resolve()) if name in _PATHS else value
        return found

    def load(self) -> Corpus:
        """Read the corpus.

        :raises ValueError: where none is named, or the data are not there.
        """
        if self.corpus is None:
            raise ValueError(f"--corpus says how to read the data: {', '.join(CORPORA)}")
        if self.data is not None and not self.data.exists():
            raise DataError(f"--data {self.data}: there is nothing; expected {CORPORA[self.corpus].form}")
        options = self.options()
        try:
            return load_corpus(self.corpus, self.data and self.data.resolve(), **options)
        except DataError as error:
            # The loaders speak of their arguments: "frame=..." or sequence_column, which is no other word.
            said = set(re.findall(r"\b(\w+)=|\b([a-z]+_[a-z]+)\b", str(error)))
            if named := [name for name in loader_options(self.corpus) if {(name, ""), ("", name)} & said]:
                error.add_note(f"Here: --loader {' '.join(f'{name}=...' for name in named)}")
            raise


def pick_device(name: str) -> torch.device:
    """Return a device by name; "auto" is a GPU where there is one.

    :raises ValueError: for a device that there is not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise NotImplementedError("holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def set_seed(seed: int) -> None:
    """Set the seed of all noise.

    :raises ValueError: for one that NumPy or torch does not take.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
    pyro.set_rng_seed(seed)
