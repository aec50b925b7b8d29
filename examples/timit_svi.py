"""Train a stochastic temporal convolutional network on speech, and look at what it learned.

    python examples/timit_svi.py                                  # on synthetic speech that is made on the spot
    python examples/timit_svi.py --data /path/to/TIMIT            # the LDC layout or NLTK's sample
    python examples/timit_svi.py --preset timit/stcn-dense-gmm    # the paper's size, for a GPU

Into --output go the checkpoints, the log, the posterior as an ArviZ file, plots, and speech as .wav.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
import tyro

from pyro_stcn import plots
from pyro_stcn.checkpoint import load_model
from pyro_stcn.cli.errors import friendly
from pyro_stcn.data import Corpus, Validation, batches, load_timit, synthetic_timit, write_wav
from pyro_stcn.evaluation import Evaluation, evaluate
from pyro_stcn.generation import generate, reconstruct
from pyro_stcn.models import SequenceModel
from pyro_stcn.objectives import OBJECTIVES, objective
from pyro_stcn.posterior import posterior_of
from pyro_stcn.presets import preset
from pyro_stcn.training import fit
from pyro_stcn.whole_files import replacing

Objective = tyro.extras.literal_type_from_choices(OBJECTIVES)


@dataclass
class Args:
    """Train a stochastic temporal convolutional network on speech in TIMIT's format and report what it learned."""

    data: Path | None = None
    """Folder of the corpus, in the LDC layout or that of NLTK's sample. Default: synthetic speech."""
    preset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "timit/stcn-dense-gmm-small"
    """A "timit/..." preset of any system: stcn-dense, vrnn, wavenet ..., -normal or -gmm; -small for CPUs, nothing for
    the paper's size."""
    loss: Objective = "meanfield"
    """Pyro's Trace_ELBO, TraceMeanField_ELBO (analytic KL), TraceGraph_ELBO, RenyiELBO (alpha 0); IWAE, DReG, FIVO,
    FreeBits."""
    particles: int = 1
    """Draws per sequence in the training objective; renyi and iwae need at least 2 to differ from the ELBO."""
    steps: int | None = None
    """Updates; default: the preset's."""
    test_particles: int = 20
    """K of the importance-weighted bound that is reported."""
    validation: Annotated[Validation, tyro.conf.EnumChoicesFromValues] = Validation.SPEAKERS
    """Hold out whole speakers, or, as published, a proportion of the files."""
    output: Path = Path("runs/timit")
    """Folder for everything that is written."""
    resume: bool = False
    """Go on with the run in --output."""
    bfloat16: bool = False
    """Run the convolution blocks in bfloat16 while training."""
    seed: int = 0
    """Seed of weights, batches and noise."""


def main(args: Args) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = load_timit(args.data or synthetic_timit(), validation=args.validation)
    print(corpus.description)

    chosen = preset(args.preset)
    training = replace(chosen.training, seed=args.seed, bfloat16_blocks=args.bfloat16)
    if args.steps is not None:
        training = replace(training, steps=args.steps)
    if chosen.model.data_dim != corpus.data_dim:
        raise SystemExit(
            f"{args.preset} is for {chosen.model.data_dim} channels; the speech here has {corpus.data_dim}"
        )
    pyro.set_rng_seed(args.seed)
    net = chosen.model.build().to(device)
    print(f"{args.preset}: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    # The pair net.model and net.guide goes with any ELBO.
    elbo = objective(args.loss, args.particles)
    facts = corpus.facts()  # how to get from what the model makes back to sound
    result = fit(
        net, corpus.train, corpus.valid, elbo=elbo, config=training, folder=args.output, resume=args.resume, facts=facts
    )
    print(result)
    if result.interrupted:
        print("Go on with --resume.")
        raise SystemExit(130)
    net = load_model(result.best)[0].to(device)

    test = evaluate(net, corpus.test, particles=args.test_particles, seed=args.seed, standardiser=corpus.standardiser)
    print(f"Test set of {corpus.name}, standardised samples. {test}")
    (args.output / "test.txt").write_text(f"{corpus.description}\n{test}\n")
    test.to_csv(args.output / "test.csv")

    if net.latent_names:
        inspect(net, corpus, args.output)
    draw(net, corpus, test, args.output)
    print(f"Everything is in {args.output.resolve()}")


def inspect(net: SequenceModel, corpus: Corpus, folder: Path) -> None:
    """Hand the posterior of the first test utterances to ArviZ."""
    idata = posterior_of(net, next(batches(corpus.test, 3)))
    with replacing(folder / "posterior.nc") as unfinished:  # an older one may be open in a notebook
        idata.to_netcdf(str(unfinished))
    kl = [f"kl_{name}" for name in net.latent_names]
    print("KL(q || p) of every layer, nats per sequence, over draws of the latents above:")
    print(az.summary(idata, group="sample_stats", var_names=kl, kind="stats"))


def draw(net: SequenceModel, corpus: Corpus, test: Evaluation, folder: Path) -> None:
    """Plot the run, a reconstruction and samples from the prior, and write the sounds."""

    def sound(frames: torch.Tensor) -> np.ndarray:
        samples = corpus.raw.undo(frames)
        return np.clip(np.round(samples), -32768, 32767).astype(np.int16)

    batch = next(batches(corpus.test, 1)).to(next(net.parameters()).device)
    sounds = {"original": sound(batch.x[0]), "reconstruction": sound(reconstruct(net, batch.x, batch.mask)[0])}
    samples = generate(net, steps=160, batch_size=4)
    sounds |= {f"sample-{i}": sound(sample) for i, sample in enumerate(samples)}
    for name, samples in sounds.items():
        write_wav(folder / f"{name}.wav", samples, corpus.sample_rate)

    plots.training_curve(folder).figure.savefig(folder / "training.png", dpi=120)
    if net.latent_names:
        plots.kl_by_layer(test.kl).figure.savefig(folder / "kl.png", dpi=120)
    figure, axes = plt.subplots(6, 1, figsize=(9, 13), layout="constrained")
    for i, name in enumerate(("original", "reconstruction", "sample-0")):
        plots.waveform(sounds[name], corpus.sample_rate, axes[2 * i])
        plots.spectrogram(sounds[name], corpus.sample_rate, axes[2 * i + 1])
        axes[2 * i].set_title(f"{name} of {batch.names[0]}" if i < 2 else "a sample from the prior")
    figure.savefig(folder / "sounds.png", dpi=120)


if __name__ == "__main__":
    with friendly():  # a line for what the user can mend, a traceback for a bug
        main(tyro.cli(Args, description=__doc__))
