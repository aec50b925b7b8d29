"""Hide a part of real words and let a trained model write it: several completions of each, as a picture.

    python examples/fill_gaps.py --data words.stroke3.npz --model runs/handwriting/stcn-dense-600-0/best.safetensors

The hidden part is drawn given what comes before it and what comes after, by a particle filter, see docs/generation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
import tyro

from pyro_stcn import impute, load_model, plots
from pyro_stcn.cli.errors import friendly
from pyro_stcn.data import load_strokes


@dataclass
class Args:
    """Hide a part of real words and let a trained model write it."""

    data: Path
    """A .npz of pen strokes in the stroke-3 format."""
    model: Path
    """A checkpoint of a model of such strokes."""
    words: int = 5
    """Words of the test part, as they come."""
    completions: int = 4
    """Completions of each."""
    hidden: tuple[float, float] = (0.35, 0.6)
    """Which part is hidden: from where to where, as fractions of the steps."""
    particles: int = 500
    """K of the particle filter."""
    seed: int = 0
    """Of the noise."""
    output: Path = Path("runs/fill_gaps.png")
    """The picture."""


def main(args: Args) -> None:
    first, last = args.hidden
    if not 0 < first < last <= 1 or min(args.words, args.completions) < 1:
        raise ValueError("--hidden takes two fractions in order, --words and --completions at least 1")
    corpus = load_strokes(args.data)
    net, _ = load_model(args.model)
    pyro.set_rng_seed(args.seed)
    size = (3 * (args.completions + 1), 1.3 * args.words)
    figure, axes = plt.subplots(args.words, args.completions + 1, figsize=size, squeeze=False, layout="constrained")
    long = [x for x in corpus.test.sequences if len(x) >= 10][: args.words]
    for row, x in zip(axes, long, strict=False):
        steps = np.arange(len(x))
        gap = (steps >= int(first * len(x))) & (steps < int(last * len(x)))
        filled = impute(net, torch.from_numpy(x)[None], torch.from_numpy(~gap)[None], args.particles)
        survivors = filled.survivors.item()
        print(f"{gap.sum()} of {len(x)} steps hidden: {survivors} of {args.particles} fillings survive")
        lines = [x, *filled.draw(args.completions)[:, 0].numpy()]
        for ax, line in zip(row, lines, strict=True):
            plots.strokes(corpus.standardiser.invert(np.asarray(line)), ax, marked=gap).set_axis_off()
    axes[0, 0].set_title("real", loc="left")
    axes[0, 1].set_title("completions: what is orange was not given", loc="left")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=120)
    print(f"The picture is {args.output.resolve()}")


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
