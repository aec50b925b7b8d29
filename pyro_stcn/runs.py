"""A run folder: everything a training was made of, so that it can be resumed or made again from the folder alone.

``run.json`` holds the recipe (corpus, path, loader options, digests of the data, model, training, objective) and how it
was made (versions, device, threads, command line, date). Beside it are what :func:`~pyro_stcn.training.fit` writes,
train.csv, valid.csv and the checkpoints, and log.txt: what was said, and when.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyro
import torch
from pyro.infer import ELBO

from .checkpoint import CheckpointError, load_tensors
from .configs import config_from_dict, config_to_dict
from .data import Corpus, DataError, load_corpus
from .objectives import FLOOR, objective
from .training_config import TrainingConfig
from .whole_files import write_json

__all__ = ["PARTS", "Objective", "Recipe", "Run", "digests", "environment"]

FORMAT = "pyro-stcn-run/1"
RECORD, LOG = "run.json", "log.txt"
PARTS = ("train", "valid", "test")
MOST_THREADS = 4096  # torch takes any number, and dies of some


@dataclass(frozen=True)
class Objective:
    """An objective and its settings, see :func:`~pyro_stcn.objectives.objective`."""

    name: str = "meanfield"
    particles: int = 1
    floor: float = FLOOR

    def build(self) -> ELBO:
        """Make it."""
        return objective(self.name, self.particles, self.floor)


@dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes.

    :param corpus: a name in :data:`~pyro_stcn.data.CORPORA`.
    :param data: where it was read from, an absolute path; None for the synthetic one.
    :param options: of its loader.
    :param digests: of its parts by name, see :func:`digests`.
    :param preset: what model and training were taken from, for the reader.
    :param model: a config of :data:`~pyro_stcn.models.MODELS`.
    :param training: with the seed.
    :param objective: what was minimised.
    :param device: "cpu", "cuda" or "cuda:1".
    :param threads: of torch, which decide the last bits of sums on a CPU.
    """

    corpus: str
    data: Path | None
    options: dict[str, Any]
    digests: dict[str, str]
    preset: str
    model: Any
    training: TrainingConfig
    objective: Objective = field(default_factory=Objective)
    device: str = "cpu"
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        plain = {name: getattr(self, name) for name in ("corpus", "options", "digests", "preset", "device", "threads")}
        return plain | {
            "data": None if self.data is None else str(self.data),
            "model": config_to_dict(self.model),
            # JSON has no infinity; "inf" is read back by float().
            "training": {k: str(v) if v in (np.inf, -np.inf) else v for k, v in asdict(self.training).items()},
            "objective": asdict(self.objective),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``.

        :raises ValueError: for values of other types, or fields that are missing or unknown.
        """
        plain = dict(values)
        plain["model"] = config_from_dict(plain["model"])
        plain["training"] = _typed(TrainingConfig, plain["training"])
        plain["objective"] = _typed(Objective, plain["objective"])
        if plain["data"] is not None:
            plain["data"] = Path(plain["data"])
        for name, kind in (("corpus", str), ("options", dict), ("digests", dict), ("device", str), ("threads", int)):
            if not isinstance(plain[name], kind):
                raise ValueError(f"{name} is {plain[name]!r}")
        if not 1 <= plain["threads"] <= MOST_THREADS or isinstance(plain["threads"], bool):
            raise ValueError(f"threads is {plain['threads']}")
        if not all(isinstance(digest, str) for digest in plain["digests"].values()):
            raise ValueError(f"digests are {plain['digests']!r:.200}")
        return cls(**plain)

    def load(self) -> Corpus:
        """Read the corpus, whether it is still the same or not."""
        return load_corpus(self.corpus, self.data, **self.options)

    def differences(self, corpus: Corpus) -> list[str]:
        """Return the parts of a corpus that are not those of this run."""
        return [part for part, digest in digests(corpus).items() if digest != self.digests.get(part)]


@dataclass(frozen=True)
class Run:
    """A run folder.

    :param folder: where it is.
    :param recipe: what it computes.
    :param made: how and where it was begun, see :func:`environment`.
    """

    folder: Path
    recipe: Recipe
    made: dict[str, Any]

    @classmethod
    def begin(cls, folder: Path, recipe: Recipe) -> Self:
        """Make the folder and write run.json.

        :raises FileExistsError: when the folder holds another run.
        """
        if (folder / RECORD).exists() or (folder / "last.safetensors").exists():
            raise FileExistsError(
                f"{folder} holds a run already: go on with `pyro-stcn train --resume {shlex.quote(str(folder))}`, or "
                "name another folder with --output"
            )
        run = cls(folder, recipe, environment())
        folder.mkdir(parents=True, exist_ok=True)
        run.write()
        return run

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read run.json.

        :raises FileNotFoundError: when there is none.
        :raises CheckpointError: when it is damaged, or not one of ours.
        """
        path = folder / RECORD
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no run folder: there is no {RECORD} in it")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not the record of a run ({FORMAT})")
            made = dict(record["made"])
            made["versions"] = {k: v and str(v) for k, v in dict(made.get("versions") or {}).items()}
            return cls(folder, Recipe.from_dict(record["recipe"]), made)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error

    def write(self) -> None:
        """Write run.json, atomically."""
        write_json(self.folder / RECORD, {"format": FORMAT, "recipe": self.recipe.to_dict(), "made": self.made})

    @property
    def checkpoint(self) -> Path:
        """The weights to use: of the best validation, or the last ones where no validation was made."""
        best, last = self.folder / "best.safetensors", self.folder / "last.safetensors"
        if not best.exists() and not last.exists():
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint yet: `pyro-stcn train --resume {shlex.quote(str(self.folder))}`"
            )
        return best if best.exists() else last

    def corpus(self, moved: Path | None = None) -> Corpus:
        """Read the data of the run.

        :param moved: where they are now, if not where they were.
        :raises DataError: where there are none, or others.
        """
        recipe = self.recipe if moved is None else replace(self.recipe, data=moved.resolve())
        if recipe.data is not None and not recipe.data.exists():
            raise DataError(f"{recipe.data}, the data of {self.folder}, is not there: --data PATH says where it is now")
        corpus = recipe.load()
        if changed := recipe.differences(corpus):
            was, found = recipe.digests.get(changed[0], "nothing")[:12], digests(corpus)[changed[0]][:12]
            raise DataError(
                f"{recipe.data or 'the synthetic corpus'} does not hold the data of {self.folder}: "
                f"{' and '.join(changed)} differ in names or values (SHA-256 was {was}…, is {found}…). --data says "
                "where the data of the run are; to train on these, begin another run"
            )
        return corpus

    def steps_made(self) -> int:
        """Return how many updates the run's last checkpoint has; 0 before there is one."""
        path = self.folder / "last.safetensors"
        return int(load_tensors(path)[1]["step"]) if path.exists() else 0

    def say(self, text: str) -> None:
        """Print a line, and keep it with the time in log.txt."""
        print(text, flush=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write("".join(f"{now}  {line}\n" for line in text.splitlines()))

    def changed_versions(self) -> list[str]:
        """Return what is not as it was when the run was begun: "torch 2.12.0, now 2.13.0"."""
        then, now = self.made.get("versions", {}), _versions()
        return [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]


def digests(corpus: Corpus) -> dict[str, str]:
    """Return the SHA-256 of the names and values of each part of a corpus."""
    return {part: getattr(corpus, part).digest() for part in PARTS}


def environment() -> dict[str, Any]:
    """Return with what and where something is made: versions, devices, threads, command line, date, commit."""
    return {
        "versions": _versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": shlex.join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def _typed(cls: Any, values: dict[str, Any]) -> Any:
    """Build a flat dataclass of numbers and text from values of a file, which must have its fields and their types."""
    hints, names = typing.get_type_hints(cls), {f.name for f in fields(cls)}
    if set(values) != names:
        raise ValueError(f"missing or unknown in {cls.__name__}: {', '.join(sorted(set(values) ^ names))}")
    made = {}
    for name, value in values.items():
        kind = hints[name]
        made[name] = float(value) if kind is float else value
        if not isinstance(made[name], kind):
            raise ValueError(f"{name} is {value!r}")
    return cls(**made)


def _versions() -> dict[str, str | None]:
    try:
        own = version("pyro-stcn")
    except PackageNotFoundError:
        own = None
    others = {"torch": torch.__version__, "pyro": pyro.__version__, "numpy": np.__version__}
    return {"pyro_stcn": own} | {k: str(v) for k, v in others.items()} | {"python": platform.python_version()}


def _commit() -> str | None:
    """Return the commit of the checkout that this library runs from, if it does, and whether it was changed."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "pyro_stcn"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
