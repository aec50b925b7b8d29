"""Train a model on data of your own, score it, and get from it what you put in: numbers, sound, ink, notes or labels.

    python examples/own_data.py                                             # numbers with gaps, made on the spot
    python examples/own_data.py --data table.csv --sequence-column id --missing mark
    python examples/own_data.py --data recordings/ --test-files "*_[0-4].wav"
    python examples/own_data.py --data words.stroke3.npz
    python examples/own_data.py --data chorales.json
    python examples/own_data.py --data names.txt --steps 1000

What the data are is seen in them, see ``load_own``. Into --output go the checkpoints, test.txt and test.csv with the
figures, what the model generated as files of the kind that was read, and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
import tyro
from matplotlib.axes import Axes
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn import TrainingConfig, evaluate, fit, generate, impute, load_model, plots
from pyro_stcn.cli.errors import friendly
from pyro_stcn.data import Corpus, RawFormat, StepKind, load_own, recognise_corpus
from pyro_stcn.models import SequenceModel
from pyro_stcn.presets import stcn_for


@dataclass
class Args:
    """Train a model on data of your own, score it, and generate."""

    data: Path | None = None
    """A .csv, .npy, .npz, .json or .txt, a recording, or a folder of such files. Default: made-up numbers with gaps."""
    kind: Annotated[StepKind | None, tyro.conf.EnumChoicesFromValues] = None
    """What a step is, where it is not to be guessed."""
    test_files: str | None = None
    """Which files of a folder are the test set, as a pattern of their names; default: some at random."""
    sequence_column: str | None = None
    """The column of a .csv that says which sequence a row belongs to."""
    missing: Literal["refuse", "mark"] | None = None
    """What to do with missing numbers: refuse them (the default), or leave their steps out of all that is scored."""
    frame: int | None = None
    """Samples of sound per step; default 200."""
    width: int = 64
    """Channels of the model's layers."""
    steps: int = 400
    """Updates."""
    particles: int = 20
    """K of the importance-weighted bound; gaps are filled with ten times as many."""
    samples: int = 4
    """Sequences to generate, each as long as half of the test sequences are."""
    seed: int = 0
    """Of what is held out, weights, batches and noise."""
    output: Path = Path("runs/own")
    """Folder for everything that is written."""


def main(args: Args) -> None:
    if min(args.steps, args.particles, args.samples) < 1:
        raise ValueError("--steps, --particles and --samples must be at least 1")
    # 1. The data: split, standardised with the training part, and described.
    corpus = load(args)
    print(corpus.description)

    # 2. A small model whose observation model fits them.
    pyro.set_rng_seed(args.seed)
    config = stcn_for(corpus, args.width)
    net = config.build()
    print(f"{corpus.kind}: {config.observation}; {sum(p.numel() for p in net.parameters()):,} parameters", flush=True)

    # 3. Training. The facts stay with the checkpoint: how to get from its numbers back to the data's.
    recipe = TrainingConfig(
        args.steps,
        learning_rate=4e-3,
        decay_rate=0.05,
        decay_steps=args.steps,
        kl_increment=2 / args.steps,
        mean_over_steps=True,
        evaluate_every=max(args.steps // 4, 1),
        seed=args.seed,
    )
    elbo = TraceMeanField_ELBO()
    result = fit(net, corpus.train, corpus.valid, elbo=elbo, config=recipe, folder=args.output, facts=corpus.facts())
    print(result)

    # 4. A bound on the log-likelihood of every test sequence.
    net, meta = load_model(result.best)
    test = evaluate(net, corpus.test, particles=args.particles, seed=args.seed, standardiser=corpus.standardiser)
    print(f"Test set of {corpus.name}. {test}")
    (args.output / "test.txt").write_text(f"{corpus.description}\n{test}\n")
    test.to_csv(args.output / "test.csv")

    # 5. New sequences, in the units of the data; the checkpoint alone knows how.
    raw = RawFormat.from_facts(meta["facts"])
    samples = generate(net, int(np.median(corpus.test.lengths)), args.samples)
    for path in raw.write(args.output / "samples", "sample", list(samples)):
        print(f"wrote {path}")
    if raw.kind is StepKind.CATEGORIES:
        print("\n".join(" ".join(raw.undo(x)) for x in samples))
    picture(raw, corpus, list(samples), args.output / "samples.png")
    plots.training_curve(args.output).figure.savefig(args.output / "training.png", dpi=120)
    if corpus.test.missing.any():
        fill(net, raw, corpus, 10 * args.particles, args.output)
    print(f"Everything is in {args.output.resolve()}")


def load(args: Args) -> Corpus:
    """Read the data; only options that were given go to the loader, as not every one has all of them."""
    if args.data is None:
        return load_own(made_up(args.seed), missing="mark", seed=args.seed, name="made up")
    wanted = {"sequence_column": args.sequence_column, "missing": args.missing, "frame": args.frame}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if recognise_corpus(args.data) != "strokes":  # a stroke-3 file has its parts, and nothing is held out
        options["seed"] = args.seed
    if args.test_files is None:
        return load_own(args.data, kind=args.kind, **options)
    files = sorted(file for file in args.data.rglob("*") if file.is_file() and not file.name.startswith("."))
    test = [file for file in files if fnmatch(file.name, args.test_files)]
    if not 0 < len(test) < len(files):
        raise ValueError(f"--test-files {args.test_files!r} is the name of {len(test)} of {len(files)} files")
    return load_own([f for f in files if f not in test], test=test, kind=args.kind, **options)


def made_up(seed: int, count: int = 120) -> list[np.ndarray]:
    """Temperature and humidity of rooms, in degrees and per cent; a sensor that fails leaves a gap."""
    rng = np.random.default_rng(seed)
    rooms = []
    for hours in rng.integers(40, 90, count):
        swing = np.sin(2 * np.pi * (np.arange(hours) + rng.uniform(0, 24)) / 24)
        temperature = rng.normal(20, 1) + rng.uniform(1, 4) * swing + 0.2 * rng.normal(size=hours)
        humidity = 50 - 4 * (temperature - 20) + rng.normal(size=hours)
        room = np.column_stack([temperature, humidity])
        start = rng.integers(5, hours - 10)
        room[start : start + rng.integers(2, 7)] = np.nan
        rooms.append(room)
    return rooms


def picture(raw: RawFormat, corpus: Corpus, samples: list[torch.Tensor], path: Path) -> None:
    """Draw test sequences above what the model generated."""
    count = len(samples)
    size = (3.2 * count, 4.6)
    figure, axes = plt.subplots(2, count, figsize=size, squeeze=False, layout="constrained")
    for place in range(count):
        which = place % len(corpus.test)
        draw(raw, corpus.test[which], axes[0, place], corpus.test.mask(which))
        draw(raw, samples[place].numpy(), axes[1, place])
    axes[0, 0].set_title("test", loc="left")
    axes[1, 0].set_title("generated", loc="left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw(raw: RawFormat, x: np.ndarray, ax: Axes, observed: np.ndarray | None = None) -> None:
    """Draw one sequence in raw units."""
    if raw.kind is StepKind.AUDIO:
        plots.spectrogram(raw.undo(x), raw.sample_rate or 1, ax)
    elif raw.kind is StepKind.STROKES:
        plots.strokes(raw.undo(x), ax).set_axis_off()
    elif raw.kind is StepKind.REAL:
        numbers = (
            raw.undo(x) if observed is None else np.where(observed[:, None], raw.undo(x), np.nan)
        )  # lines have gaps
        ax.plot(numbers[:, :8], lw=1)
        ax.set_xlabel("step")
    else:
        plots.rows(x, ax, names=raw.channels)


def fill(net: SequenceModel, raw: RawFormat, corpus: Corpus, particles: int, folder: Path) -> None:
    """Draw what may have been in the gaps of a test sequence, and write one filling."""
    which = int(np.argmax(corpus.test.missing))
    observed = corpus.test.mask(which)
    x = torch.from_numpy(corpus.test[which])
    filled = impute(net, x[None], torch.from_numpy(observed)[None], particles).draw(5)[:, 0]
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for completion in filled:
        inside = np.convolve(~observed, np.ones(3), "same") > 0  # with a step at either side, so that lines meet
        ax.plot(np.where(inside[:, None], raw.undo(completion), np.nan), lw=0.8, color="C3")
    draw(raw, corpus.test[which], ax, observed)
    ax.set_title(f"five fillings of the gaps in {corpus.test.names[which]}", loc="left")
    figure.savefig(folder / "filled.png", dpi=120)
    raw.write(folder / "samples", "filled", [filled[0]])


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
