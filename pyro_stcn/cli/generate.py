"""``pyro-stcn generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from ..data import Corpus, StepKind
from ..generation import generate
from ..whole_files import write_json
from .options import Data, pick_device, set_seed
from .pictures import draw, save
from .trained import Trained

__all__ = ["Generate"]


@dataclass
class Generate:
    """Let a trained system make sequences, in the unit of its data.

    It writes to RUN/generated: a .wav for each sequence of audio, strokes.npz (arrays "sequence-0" and so on, each
    dx, dy and pen) for handwriting, and a table (.csv) otherwise; a picture of them (generated.png, for handwriting
    .svg, too); and generated.json, what was asked for.

        pyro-stcn generate runs/first --steps 160 --count 4
        pyro-stcn generate runs/words --steps 500 --bias 0.5 --temperature 0.8
        pyro-stcn generate runs/words --steps 300 --prefix 0 --prefix-steps 100    (go on from the first test sequence)

    With the same --seed it makes the same on the same kind of machine.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder: the weights of its best validation. Or a checkpoint (.safetensors)."""
    steps: int = 200
    """Steps of each sequence, beside those that are given."""
    count: int = 4
    """How many sequences."""
    prefix: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Go on from the beginning of this sequence of the data, by its name or its place from 0."""
    prefix_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: half of it)")] = None
    """How much of it is given."""
    part: Literal["test", "valid", "train"] = "test"
    """Which part of the data --prefix is from."""
    temperature: float = 1.0
    """Of the data's distribution: below 1 is nearer to its middle, 1 is the model."""
    latent_temperature: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER|NAME=NUMBER")] = ("1",)
    """The same of the latents: one number for all, or some by name, as in z1=0.5 z3=0.8."""
    bias: float = 0.0
    """Towards probable strokes (Graves 2013): 0 is the model, 1 is far more regular."""
    seed: int = 0
    """Of the noise."""
    batch_size: int = 64
    """Sequences that are made together; with another, others are made."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is a GPU where there is one."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: RUN/generated)")] = (
        None
    )
    """Where the files go; those of an earlier call with these names are replaced."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = field(default_factory=Data)

    def run(self) -> None:
        """Generate."""
        if min(self.steps, self.count, self.batch_size) < 1:
            raise ValueError("--steps, --count and --batch-size must be at least 1")
        if self.prefix is None and self.prefix_steps is not None:
            raise ValueError("--prefix-steps goes with --prefix, which says what sequence to go on from")
        latent_temperature = _temperatures(self.latent_temperature)
        trained = Trained.open(self.run_folder, pick_device(self.device))
        raw, folder = trained.raw, self.output or trained.folder / "generated"
        given = None
        if self.prefix is not None:
            given = self._beginning(trained.corpus(self.data), self.prefix)
        set_seed(self.seed)
        sequences: list[np.ndarray] = []
        for start in range(0, self.count, self.batch_size):
            made = generate(
                trained.net,
                self.steps,
                min(self.batch_size, self.count - start),
                prefix=None if given is None else torch.from_numpy(given)[None],
                temperature=self.temperature,
                latent_temperature=latent_temperature,
                bias=self.bias,
            )
            sequences += list(made.cpu().numpy())
        if given is not None:
            sequences = [np.concatenate([given, sequence]) for sequence in sequences]
        folder.mkdir(parents=True, exist_ok=True)
        if raw.kind is StepKind.STROKES:
            paths = [folder / "strokes.npz"]
            np.savez_compressed(paths[0], **{f"sequence-{i}": raw.undo(s) for i, s in enumerate(sequences)})
        else:
            paths = raw.write(folder, "sequence", sequences)
        names = [f"sequence {i}" for i in range(len(sequences))]
        prefix = 0 if given is None else len(given)
        pictures = save(draw(raw, dict(zip(names, sequences, strict=True)), prefix=prefix), folder / "generated", raw)
        asked = {k: v for k, v in asdict(self).items() if k not in ("run_folder", "output", "data", "device")}
        write_json(folder / "generated.json", asked | {"checkpoint": str(trained.checkpoint), "given_steps": prefix})
        for path in [*paths, *pictures]:
            print(path.resolve())

    def _beginning(self, corpus: Corpus, wanted: str) -> np.ndarray:
        """Return the given steps, ``(T, D)``.

        :raises ValueError: for a sequence that there is not, or more steps than it has.
        """
        dataset = getattr(corpus, self.part)
        if wanted in dataset.names:
            number = dataset.names.index(wanted)
        elif wanted.isdecimal() and int(wanted) < len(dataset):
            number = int(wanted)
        else:
            raise ValueError(
                f"--prefix {wanted}: the {self.part} part has no such sequence; it has {len(dataset)}, 0 to "
                f"{len(dataset) - 1}, named {', '.join(dataset.names[:3])} ..."
            )
        sequence = dataset[number]
        steps = max(len(sequence) // 2, 1) if self.prefix_steps is None else self.prefix_steps
        if not 1 <= steps <= len(sequence):
            raise ValueError(f"--prefix-steps {steps}: the sequence has {len(sequence)} steps")
        if not (known := dataset.mask(number)[:steps]).all():
            missing = int(np.argmin(known))
            raise ValueError(
                f"--prefix {wanted}: step {missing} of its beginning is missing; give less of it (--prefix-steps "
                f"{missing}), or another sequence. In Python, impute fills gaps"
            )
        return sequence[:steps]


def _temperatures(given: Sequence[str]) -> Any:
    """Read one number, or numbers by name.

    :raises ValueError: for anything else.
    """
    try:
        if len(given) == 1 and "=" not in given[0]:
            return float(given[0])
        return {name: float(value) for name, _, value in (text.partition("=") for text in given)}
    except ValueError:
        raise ValueError(
            f"--latent-temperature {' '.join(given)}: expected a number, or numbers by name as in z1=0.5 z2=0.8"
        ) from None
