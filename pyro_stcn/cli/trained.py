"""A trained model as the commands are given it: a run folder, or a checkpoint by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from ..checkpoint import load_model
from ..data import Corpus, DataError, RawFormat
from ..models import SequenceModel
from ..runs import RECORD, Run
from .options import Data

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A trained model and where it comes from.

    :param net: on the device that was asked for.
    :param facts: what was kept with the weights about the data, see :meth:`~pyro_stcn.data.Corpus.facts`.
    :param checkpoint: the file.
    :param run: the run that it belongs to, if any.
    """

    net: SequenceModel
    facts: dict[str, Any]
    checkpoint: Path
    run: Run | None

    @classmethod
    def open(cls, path: Path, device: torch.device) -> Self:
        """Read a run folder (the weights of its best validation) or a .safetensors.

        :raises FileNotFoundError: when it is neither.
        :raises CheckpointError: when it is damaged.
        """
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: expected a run folder, or a checkpoint (.safetensors)")
        folder = path if path.is_dir() else path.parent
        run = Run.open(folder) if path.is_dir() or (folder / RECORD).is_file() else None
        checkpoint = run.checkpoint if path.is_dir() and run is not None else path
        net, meta = load_model(checkpoint)
        return cls(net.to(device).eval(), dict(meta.get("facts") or {}), checkpoint, run)

    @property
    def folder(self) -> Path:
        """Where outputs go by default."""
        return self.checkpoint.parent

    @property
    def raw(self) -> RawFormat:
        """The way from what the model makes to raw data."""
        return RawFormat.from_facts(self.facts)

    def corpus(self, data: Data) -> Corpus:
        """Read the data of the run, or others, in the unit that the model was trained in.

        :param data: other data (``corpus``), or where those of the run are now (``data`` alone).
        :raises ValueError: where it is not known how to read them, or they do not fit the model.
        :raises DataError: where they are not what they were.
        """
        if data.corpus is None and self.run is not None:
            if data.loader:
                raise ValueError("--loader goes with --corpus: the run knows its own data")
            return self.run.corpus(data.data)
        if data.corpus is None:
            raise ValueError(f"{self.checkpoint} is in no run folder: --corpus and --data say what data to use")
        corpus = data.load()
        if corpus.data_dim != self.net.data_dim:
            raise ValueError(
                f"{self.checkpoint} is a model of {self.net.data_dim} channels, and {corpus.name} has {corpus.data_dim}"
            )
        self._compare(corpus)
        if "standardiser" not in self.facts:
            print("It is not kept with the model in what unit its data were: these are standardised by themselves.")
            return corpus
        try:
            unit = self.raw.standardiser
            return corpus if unit == corpus.standardiser else corpus.in_units_of(unit)
        except DataError as error:
            raise DataError(f"{self.checkpoint}: {error}") from error

    def _compare(self, corpus: Corpus) -> None:
        """Refuse data of another kind or rate, or whose channels are called otherwise.

        :raises ValueError: naming both.
        """
        if "standardiser" not in self.facts:  # nothing is known of what it was trained on
            return
        ours, theirs = self.raw, corpus.raw
        if "kind" in self.facts and ours.kind is not theirs.kind:
            raise ValueError(f"{self.checkpoint} is a model of {ours.kind}, and {corpus.name} is {theirs.kind}")
        if None not in (ours.sample_rate, theirs.sample_rate) and ours.sample_rate != theirs.sample_rate:
            raise ValueError(
                f"{self.checkpoint} is a model of sound at {ours.sample_rate} Hz, and {corpus.name} has "
                f"{theirs.sample_rate} Hz: resample it, ffmpeg -i IN -ar {ours.sample_rate} OUT.wav"
            )
        if None not in (ours.channels, theirs.channels) and ours.channels != theirs.channels:
            raise ValueError(
                f"{self.checkpoint} is a model of {ours.kind} {_listed(ours)}, and {corpus.name} has {_listed(theirs)}"
            )


def _listed(raw: RawFormat) -> str:
    names = ", ".join(map(repr, raw.channels or ()))
    return names if len(names) < 500 else f"{names[:500]} ..."
