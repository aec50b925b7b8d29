"""``pyro-stcn data check`` and ``pyro-stcn data list``."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data import CORPORA, DataError, Missing, inspect_data
from ..data.corpora import CorpusKind, loader_options

__all__ = ["Check", "ListCorpora"]


@dataclass(frozen=True)
class Check:
    """Check data before training: what is wrong, where, and what to do. Exits with 1 if a loader would refuse them."""

    path: Annotated[Path, tyro.conf.Positional]
    """A file, or a folder with a corpus."""
    corpus: str | None = None
    """What it holds, a name of `pyro-stcn data list`; recognised if not given."""
    json: Path | None = None
    """Also write everything that was found to this file."""
    sequence_column: int | str | None = None
    """The column of a .csv that says which sequence a row belongs to, by its name or its number from 0."""
    frame: int = 200
    """Samples per step of audio."""
    missing: Annotated[Missing, tyro.conf.EnumChoicesFromValues] = Missing.REFUSE
    """What NaN and empty cells of arrays are: errors (refuse), or steps that are not known (mark)."""

    def run(self) -> None:
        """Print the report."""
        report = inspect_data(
            self.path,
            corpus=self.corpus,
            sequence_column=self.sequence_column,
            frame=self.frame,
            missing=self.missing,
        )
        if self.json is not None:
            report.to_json(self.json)
        print(report)
        if not report.ok:
            raise SystemExit(1)


@dataclass(frozen=True)
class ListCorpora:
    """List the kinds of corpora that can be read: what they hold, their form, who offers them.

    Of one kind it also lists what its loader can be told, and what that means: --loader NAME=VALUE of pyro-stcn train.

        pyro-stcn data list
        pyro-stcn data list arrays
    """

    kind: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[KIND]", help_behavior_hint="")] = None
    """One kind: also the options of its loader."""

    def run(self) -> None:
        """Print one paragraph per kind.

        :raises DataError: for a kind that there is not.
        """
        if self.kind is not None and self.kind not in CORPORA:
            raise DataError(f"there is no kind of corpus {self.kind!r}; there are: {', '.join(CORPORA)}")
        for name in CORPORA if self.kind is None else (self.kind,):
            self._describe(name, CORPORA[name])
        if self.kind is not None:
            print("\nOptions of its loader, --loader NAME=VALUE:")
            for option, about in loader_options(self.kind).items():
                print(f"  {option}={json.dumps(about.default, default=str)}")
                choices = f" There are: {', '.join(about.choices)}." if about.choices else ""
                print(textwrap.indent(textwrap.fill(about.meaning + choices, 100), "      "))

    @staticmethod
    def _describe(name: str, kind: CorpusKind) -> None:
        double = "yes, made when no path is given" if kind.synthetic is not None else "no"
        presets = f"{kind.presets}/..." if kind.presets is not None else "none"
        print(f"{name}: {kind.contents}")
        for what, told in (("path", kind.form), ("owner", kind.owner), ("presets", presets), ("synthetic", double)):
            print(f"  {what + ':':10} {told}")
