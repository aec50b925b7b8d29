"""``pyro-stcn evaluate``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..bounds import FIVO
from ..evaluation import evaluate
from ..protocols import PROTOCOLS, evaluate_as
from .options import Data, pick_device, set_seed
from .reporting import write_report
from .trained import Trained

if TYPE_CHECKING:
    ProtocolName = str
else:
    ProtocolName = tyro.extras.literal_type_from_choices(PROTOCOLS)


@dataclass
class Evaluate:
    """Score a trained system: bounds with standard errors, KL per layer.

    It prints the report, and writes it to test.txt in the run folder, beside test.csv (a row for each sequence) and
    test.json (every figure); valid.*, train.* and test-PROTOCOL.* for other questions.

        pyro-stcn evaluate runs/first --particles 100 --repeats 3
        pyro-stcn evaluate runs/first --filter-particles 100        (a particle filter's bound beside the others)
        pyro-stcn evaluate runs/first --protocol timit/stcn         (as a published table scores)
        pyro-stcn evaluate model.safetensors --corpus timit --data /path/to/TIMIT

    With --corpus the run is scored on other data, brought to the unit of those that it was trained on; the files are
    then test-of-CORPUS.*.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder: the weights of its best validation, on its own data. Or a checkpoint (.safetensors)."""
    particles: int = 100
    """K, draws of the latents per sequence, of the importance-weighted bound."""
    repeats: int = 1
    """Compute everything so often, with new draws: the report then says what the draws contribute to its errors."""
    filter_particles: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: no filter)")] = (
        None
    )
    """Particles of a filter, for systems that have one; its bound is reported, too."""
    part: Literal["test", "valid", "train"] = "test"
    """Which part of the data."""
    protocol: Annotated[ProtocolName | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Score the test set as a published table did; a wrong name lists them."""
    window: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: whole sequences)")] = None
    """Steps that are computed together, for recordings that do not fit into memory."""
    batch_size: int = 10
    """Sequences that are computed together."""
    seed: int = 0
    """Of the draws."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is a GPU where there is one."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: RUN)")] = None
    """Where the files go."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = field(default_factory=Data)

    def run(self) -> None:
        """Score."""
        if self.protocol is not None and self.part != "test":
            raise ValueError(f"--protocol is for the test set, not for --part {self.part}")
        set_seed(self.seed)
        trained = Trained.open(self.run_folder, pick_device(self.device))
        corpus = trained.corpus(self.data)
        options: dict[str, Any] = {
            "particles": self.particles,
            "repeats": self.repeats,
            "filter": None if self.filter_particles is None else FIVO(self.filter_particles),
            "window": self.window,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        print(corpus.description)
        if self.protocol is not None:
            result = evaluate_as(self.protocol, trained.net, corpus, **options)
        else:
            dataset = getattr(corpus, self.part)
            result = evaluate(trained.net, dataset, standardiser=corpus.standardiser, **options)
        print(f"{trained.checkpoint}, {self.part} set: {result}")
        stem = self.part if self.protocol is None else f"{self.part}-{self.protocol.replace('/', '-')}"
        if trained.run is not None and self.data.corpus is not None:
            stem += f"-of-{self.data.corpus}"  # the run keeps the figures on its own data
        folder = self.output or trained.folder
        write_report(result, folder / stem, corpus, trained.checkpoint)
        print(f"Written: {shlex.quote(str((folder / stem).resolve()))}.txt, .csv and .json")
