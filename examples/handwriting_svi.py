"""Train systems on handwriting, let them write, and set it beside real lines: as pictures, and as statistics.

    python examples/handwriting_svi.py                                  # synthetic words that are made on the spot
    python examples/handwriting_svi.py --data words.stroke3.npz         # the stroke-3 format
    python examples/handwriting_svi.py --data words.stroke3.npz --systems stcn-dense --bias 0.5

Into --output go one folder for each run; handwriting.png and .svg, real lines and what each system wrote unprimed;
primed.png and .svg, real beginnings and how each system goes on; histograms.png; and table.md, statistics of strokes
with their standard errors. A system has the length of a real test sequence to write in, and ends with the pen-up that
is nearest to it. A run that is in --output already is not made again, and one that was cut short goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pyro
import torch
import tyro

from pyro_stcn import plots
from pyro_stcn.bounds import FIVO
from pyro_stcn.checkpoint import load_model
from pyro_stcn.cli.errors import friendly
from pyro_stcn.data import Corpus, load_strokes, synthetic_strokes
from pyro_stcn.generation import generate
from pyro_stcn.handwriting import (
    end_at_pen_up,
    is_whole,
    markdown_table,
    prefix_length,
    stroke_statistics,
    to_whole,
)
from pyro_stcn.models import SequenceModel
from pyro_stcn.presets import preset, systems
from pyro_stcn.study import Row, run
from pyro_stcn.writing import raw_lines, written_lines

CONTINUATIONS = 3  # of each real beginning


@dataclass
class Args:
    """Train systems on handwriting, let them write, and set it beside real lines."""

    data: Path | None = None
    """A .npz of pen strokes in the stroke-3 format. Default: synthetic words."""
    systems: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("stcn-dense", "stcn", "vrnn", "swavenet")
    """The systems to train: small presets with a mixture of five Gaussians and a pen bit."""
    steps: int = 600
    """Updates of every run."""
    seed: int = 0
    """Seed of weights, batches and noise, and of what is written and drawn."""
    bias: float = 0.0
    """Towards probable strokes (Graves 2013): 0 is the model, 1 is far more regular."""
    temperature: float = 1.0
    """Of strokes and pen: 1 is the model."""
    lines: int = 8
    """Lines in the pictures."""
    particles: int = 20
    """K of the importance-weighted bound on the test set, and of the particle filter's for systems that have one."""
    output: Path = Path("runs/handwriting")
    """Folder for the runs, the pictures and the table."""


def main(args: Args) -> None:
    if unknown := [name for name in args.systems if name not in systems()]:
        raise ValueError(f"there is no system {unknown[0]!r}; there are: {', '.join(systems())}")
    if min(args.steps, args.particles, args.lines, len(args.systems)) < 1:
        raise ValueError("--steps, --particles and --lines must be at least 1, and there must be a system")
    if not args.temperature > 0 or not args.bias >= 0:
        raise ValueError("--temperature must be positive, and --bias at least 0")
    corpus = load_strokes(args.data or synthetic_strokes())
    if len(corpus.test) < args.lines:
        raise ValueError(f"--lines {args.lines}: there are only {len(corpus.test)} test sequences")
    print(corpus.description, flush=True)

    nets, figures = {}, []
    for system in dict.fromkeys(args.systems):
        made = run(
            row(system, args.steps),
            args.seed,
            corpus,
            args.output,
            particles=args.particles,
            filter=FIVO(args.particles),
        )
        figures.append(f"{system}: {np.mean(made.nats):.1f} nats per test sequence ({made.bound}, {made.evidence})")
        print(figures[-1], flush=True)
        nets[system] = load_model(args.output / f"{system}-{args.steps}-{args.seed}" / "best.safetensors")[0]

    # What is real, in the unit of the file, and as much of it that no system has to explain: the training part.
    real = raw_lines(corpus, corpus.test.sequences)
    rng = np.random.default_rng(args.seed)
    others = rng.permutation(len(corpus.train))[: len(real)]
    written = {"training part": raw_lines(corpus, [corpus.train[i] for i in others])}
    options = {"seed": args.seed, "temperature": args.temperature, "bias": args.bias}
    lengths = corpus.test.lengths.tolist()
    written |= {system: written_lines(net, corpus, lengths, **options) for system, net in nets.items()}
    whole = is_whole(real + written["training part"])
    if whole:  # so are the places that a system writes, or its histograms would differ by that alone
        real = [to_whole(line) for line in real]
        written = {name: [to_whole(line) for line in lines] for name, lines in written.items()}

    chosen = sorted(rng.permutation(len(real))[: args.lines])
    columns = {"real": real} | {system: written[system] for system in nets}
    drawn = {name: [lines[i] for i in chosen] for name, lines in columns.items()}
    plots.save(plots.handwriting(drawn)[0].figure, args.output / "handwriting")
    continued, given = go_on(nets, corpus, rng, args)
    plots.save(plots.handwriting(continued, prefix=given)[0].figure, args.output / "primed")

    statistics = {"real": stroke_statistics(real)}
    statistics |= {name: stroke_statistics(lines, statistics["real"].edges) for name, lines in written.items()}
    shown = {name: made for name, made in statistics.items() if name != "training part"}
    plots.stroke_histograms(shown)[0].figure.savefig(args.output / "histograms.png", dpi=120)
    table = markdown_table(statistics["real"], {name: made for name, made in statistics.items() if name != "real"})
    print(table)
    how = f"{args.steps} updates, seed {args.seed}. Written with bias {args.bias:g}, temperature {args.temperature:g}"
    how += ", rounded to whole numbers as the data are" if whole else ""
    notes = "\n".join(f"* {figure}" for figure in figures)
    (args.output / "table.md").write_text(f"{corpus.description}\n\n{how}.\n\n{notes}\n\n{table}\n")
    print(f"Everything is in {args.output.resolve()}")


def row(system: str, steps: int) -> Row:
    """Take the small preset of a system; the learning rate falls to a twentieth, as in valid_ranking.py."""
    small = preset(f"iamondb/{system}-gmm-small")
    recipe = replace(small.training, steps=steps, decay_rate=0.05, decay_steps=steps, kl_increment=2 / steps)
    return Row(system, small.model, recipe)


def go_on(
    nets: dict[str, SequenceModel], corpus: Corpus, rng: np.random.Generator, args: Args
) -> tuple[dict[str, list[np.ndarray]], list[int]]:
    """Prime every system with the beginnings of real test sequences, and let it go on, several times from each.

    :returns: the lines of every column, the real line once for all its continuations, and how much of each was given.
    """
    long = np.flatnonzero(corpus.test.lengths >= max(np.median(corpus.test.lengths), 2))
    if not len(long):
        raise ValueError("every test sequence is a single step: there is no beginning to prime with")
    beginnings = rng.permutation(long)[: -(-args.lines // CONTINUATIONS)]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("real", *nets)}
    given: list[int] = []
    for system in nets:
        pyro.set_rng_seed(args.seed)
        for index in beginnings:
            line = corpus.test[index]
            prefix = line[: prefix_length(line)]
            # The rest of the line, and half a line more: models do not know where to end.
            wanted = len(line) + len(line) // 2
            steps = wanted + wanted // 2 - len(prefix)
            start = torch.from_numpy(prefix)[None].expand(CONTINUATIONS, -1, -1)
            new = generate(
                nets[system], steps, CONTINUATIONS, prefix=start, temperature=args.temperature, bias=args.bias
            )
            lines = raw_lines(corpus, torch.cat([start, new], dim=1).numpy())
            columns[system] += [end_at_pen_up(line, wanted) for line in lines]
    nothing = np.zeros((0, 3), dtype=np.float32)
    for line in raw_lines(corpus, [corpus.test[index] for index in beginnings]):
        columns["real"] += [line, *[nothing] * (CONTINUATIONS - 1)]
        given += [prefix_length(line)] * CONTINUATIONS
    return {name: lines[: args.lines] for name, lines in columns.items()}, given[: args.lines]


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
