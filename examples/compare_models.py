"""Train many systems with equal budgets on one data set, and print what each is worth.

    python examples/compare_models.py                                       # synthetic speech, every system
    python examples/compare_models.py --data /path/to/TIMIT                 # the LDC layout or NLTK's sample
    python examples/compare_models.py --data words.stroke3.npz --systems stcn-dense vrnn rnn --seeds 0 1 2

Every system is a small preset and gets the same number of updates, batches of the same size and the same validations;
the weights of its best validation are scored on the test set. A run takes from one minute to ten on two cores, by the
system and the length of the sequences. One that is in --output already is not made again, and one that was cut short
goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from pyro_stcn import plots
from pyro_stcn.bounds import FIVO
from pyro_stcn.cli.errors import friendly
from pyro_stcn.comparison import by_system, markdown_table
from pyro_stcn.data import Corpus, load_strokes, load_timit, synthetic_timit
from pyro_stcn.presets import preset, systems
from pyro_stcn.study import Row, run


@dataclass
class Args:
    """Train many systems with equal budgets on one data set, and print what each is worth."""

    data: Path | None = None
    """Folder of a corpus in TIMIT's layout, or a .npz of pen strokes in the stroke-3 format. Default: synthetic
    speech."""
    systems: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = field(default_factory=systems)
    """The systems to compare."""
    observation: Literal["gmm", "normal"] = "gmm"
    """A mixture of five Gaussians, or one; handwriting has a pen bit beside it."""
    seeds: tuple[int, ...] = (0, 1)
    """Every system is trained once for each: weights, batches and noise."""
    steps: int = 600
    """Updates of every run."""
    particles: int = 20
    """K of the importance-weighted bound, and of the particle filter's for systems that have one."""
    output: Path = Path("runs/compare")
    """Folder for the runs, the table (table.md) and the plot (table.png)."""


def main(args: Args) -> None:
    if unknown := [name for name in args.systems if name not in systems()]:
        raise ValueError(f"there is no system {unknown[0]!r}; there are: {', '.join(systems())}")
    if min(args.steps, args.particles, len(args.systems), len(args.seeds)) < 1:
        raise ValueError("--steps and --particles must be at least 1, and there must be a system and a seed")
    corpus = load(args.data)
    print(corpus.description)
    runs = list(dict.fromkeys((system, seed) for seed in args.seeds for system in args.systems))
    print(f"{len(runs)} runs of {args.steps} updates", flush=True)
    scores, filter = [], FIVO(args.particles)
    for number, (system, seed) in enumerate(runs, start=1):
        made = run(row(system, corpus, args), seed, corpus, args.output, particles=args.particles, filter=filter)
        scores.append(made := replace(made, system=system))
        figure = f"{np.mean(made.nats):.1f} nats per sequence ({made.bound})"
        print(f"{number} of {len(runs)}: {system}, seed {seed}: {figure}", flush=True)
    table = markdown_table(scores)
    print(table)
    (args.output / "table.md").write_text(f"{corpus.description}\n\n{args.steps} updates. {table}\n")
    plots.comparison(by_system(scores)).figure.savefig(args.output / "table.png", dpi=120)
    print(f"Everything is in {args.output.resolve()}")


def load(path: Path | None) -> Corpus:
    """Read speech from a folder and handwriting from a file."""
    if path is not None and path.suffix == ".npz":
        return load_strokes(path)
    return load_timit(path or synthetic_timit())


def row(system: str, corpus: Corpus, args: Args) -> Row:
    """Take the small preset of a system, with the number of updates that was asked for."""
    small = preset(f"{'timit' if corpus.data_dim == 200 else 'iamondb'}/{system}-{args.observation}-small")
    return Row(f"{system}-{args.observation}", small.model, replace(small.training, steps=args.steps))


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
