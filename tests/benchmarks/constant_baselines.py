"""What a model without any memory scores: the best constant Gaussian and the best constant mixture per frame.

    python tests/benchmarks/constant_baselines.py --data /path/to/TIMIT --checkpoint runs/timit/best.safetensors

Both are fitted to the training frames by maximum likelihood and scored on the test utterances: exact log-likelihoods,
in nats per sequence of standardised samples, on the same scale as the bounds of the models. The Gaussian has a full
covariance matrix (200 x 200), so it knows the long-term spectrum of speech; the mixture has 20 diagonal components
and its scales a floor of 0.001 as in the models.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_stcn.checkpoint import load_model
from pyro_stcn.data import Corpus, SequenceDataset, load_timit, synthetic_timit
from pyro_stcn.distributions import DiagonalGaussianMixture
from pyro_stcn.evaluation import Statistic, evaluate


def constant_gaussian(frames: Tensor) -> MultivariateNormal:
    """Return the maximum-likelihood Gaussian with a full covariance matrix."""
    centred = frames - frames.mean(0)
    covariance = centred.T @ centred / len(frames)
    return MultivariateNormal(frames.mean(0), covariance + 1e-8 * torch.eye(frames.shape[1], dtype=frames.dtype))


def constant_mixture(frames: Tensor, components: int = 20, iterations: int = 100) -> DiagonalGaussianMixture:
    """Return a mixture of diagonal Gaussians fitted by expectation maximisation, begun by loudness."""
    loudness = frames.square().mean(1).sqrt().argsort()
    responsibility = torch.zeros(len(frames), components, dtype=frames.dtype)
    for k, part in enumerate(loudness.chunk(components)):
        responsibility[part, k] = 1.0
    for _ in range(iterations):
        weight = responsibility.sum(0).clamp(min=1e-6)
        mean = responsibility.T @ frames / weight[:, None]
        variance = responsibility.T @ frames.square() / weight[:, None] - mean.square()
        scale = variance.clamp(min=1e-6).sqrt()
        log_density = -0.5 * (
            (frames.square() @ scale.pow(-2).T) - 2 * frames @ (mean / scale**2).T + (mean / scale).square().sum(1)
        ) - scale.log().sum(1)
        responsibility = (log_density + (weight / len(frames)).log()).softmax(1)
    return DiagonalGaussianMixture((weight / len(frames)).log(), mean, scale)


def score(distribution, dataset: SequenceDataset) -> np.ndarray:
    """Exact log-likelihood of every sequence, in nats."""
    return np.array([distribution.log_prob(torch.from_numpy(s).double()).sum().item() for s in dataset.sequences])


def baselines(corpus: Corpus) -> dict[str, np.ndarray]:
    """Score the constant distributions on every test sequence."""
    frames = torch.from_numpy(np.concatenate(corpus.train.sequences)).double()
    return {
        "constant Gaussian, full covariance": score(constant_gaussian(frames), corpus.test),
        "constant mixture of 20 diagonal Gaussians": score(constant_mixture(frames), corpus.test),
    }


@dataclass
class Args:
    """Score constant distributions, and how far above them a trained model is, sequence by sequence."""

    data: Path | None = None
    """Folder of the corpus; default: synthetic speech."""
    checkpoint: Path | None = None
    """A model trained on it by examples/timit_svi.py."""


def main(args: Args) -> None:
    """Print the table."""
    corpus = load_timit(args.data or synthetic_timit())
    print(corpus.description)
    print("nats per test sequence, mean ± standard error; standardised samples")
    rows = baselines(corpus)
    for name, values in rows.items():
        print(f"  {name:<44} {Statistic.of(values)}  exact")
    if args.checkpoint:
        result = evaluate(load_model(args.checkpoint)[0], corpus.test, particles=20)
        print(f"  {'ELBO of ' + args.checkpoint.name:<44} {Statistic.of(result.objective)}  {result.evidence}")
        for name, values in rows.items():
            print(f"  above the {name:<34} {Statistic.of(result.objective - values)}  paired")


if __name__ == "__main__":
    main(tyro.cli(Args))
