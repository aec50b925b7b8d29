"""``pyro-stcn data check`` and ``pyro-stcn data list``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data import CORPORA, Missing, inspect_data

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
    """List the kinds of corpora that can be read: what they hold, their form, who offers them."""

    def run(self) -> None:
        """Print one paragraph per kind."""
        for name, kind in CORPORA.items():
            double = "yes, made when no path is given" if kind.synthetic is not None else "no"
            presets = f"{kind.presets}/..." if kind.presets is not None else "none"
            print(f"{name}: {kind.contents}")
            for what, told in (("path", kind.form), ("owner", kind.owner), ("presets", presets), ("synthetic", double)):
                print(f"  {what + ':':10} {told}")
