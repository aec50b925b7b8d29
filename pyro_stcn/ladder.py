"""The ladder of latents: prior networks, likelihood networks and the precision-weighted merge (equations 7-13).

Layers are numbered as in the paper: z1 is nearest the data and zL is the top. Everything is independent over time
given the features, so all functions take whole sequences ``(..., time, dim)`` and single steps ``(..., dim)`` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .initialise import glorot_uniform_

__all__ = [
    "MERGES",
    "GaussianNet",
    "LadderConfig",
    "LadderLayer",
    "StandardNormal",
    "base_normal",
    "build_ladder",
]

MIN_SCALE = 1e-3  # the paper clamps the scales of the latents to [0.001, 5]
MAX_SCALE = 5.0


class GaussianNet(nn.Module):
    """f^(l) of equations 8 and 10: ``N(mu, sigma)`` from the feature d^l and the draw from the layer above.

    Mean and scale have separate networks of 1x1 convolutions with ReLU; the scale is a softplus clamped to [0.001, 5].

    :param feature_dim: channels of d^l.
    :param above_dim: channels of z^(l+1); 0 for a network that does not see it.
    :param latent_dim: channels of z^l.
    :param hidden: width of the hidden layers.
    :param layers: number of hidden layers.
    """

    def __init__(self, feature_dim: int, above_dim: int, latent_dim: int, hidden: int, layers: int):
        super().__init__()
        self.loc = _Trunk(feature_dim, above_dim, latent_dim, hidden, layers)
        self.scale = _Trunk(feature_dim, above_dim, latent_dim, hidden, layers)

    def forward(self, d: Tensor, above: Tensor | None) -> dist.Normal:
        """Return the Normal with batch shape ``(..., latent_dim)``."""
        scale = nn.functional.softplus(self.scale(d, above)).clamp(MIN_SCALE, MAX_SCALE)
        return dist.Normal(self.loc(d, above), scale)


class StandardNormal(nn.Module):
    """The prior N(0, I) that ignores what came before: the authors' ``use_fixed_pz1`` for the top of the ladder."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, d: Tensor, above: Tensor | None) -> dist.Normal:
        """Return N(0, 1) with batch shape ``(..., latent_dim)``."""
        zeros = d.new_zeros(*d.shape[:-1], self.latent_dim)
        return dist.Normal(zeros, torch.ones_like(zeros))


class _Trunk(nn.Module):
    def __init__(self, feature_dim: int, above_dim: int, out_dim: int, hidden: int, layers: int):
        super().__init__()
        # The first layer reads [d, z above]. It is kept as two matrices and the products are added, so that with K
        # draws of z (importance weighting) the part that reads d is computed once and not K times.
        self.from_features = nn.Linear(feature_dim, hidden)
        self.from_above: nn.Linear | None = nn.Linear(above_dim, hidden, bias=False) if above_dim else None
        self.rest = nn.Sequential()
        for _ in range(layers - 1):
            self.rest.extend([nn.ReLU(), nn.Linear(hidden, hidden)])
        self.rest.extend([nn.ReLU(), nn.Linear(hidden, out_dim)])
        glorot_uniform_(self.from_features, fan_in=feature_dim + above_dim)
        if self.from_above is not None:
            glorot_uniform_(self.from_above, fan_in=feature_dim + above_dim)
        for layer in self.rest:
            if isinstance(layer, nn.Linear):
                glorot_uniform_(layer)

    def forward(self, d: Tensor, above: Tensor | None) -> Tensor:
        h = self.from_features(d)
        if self.from_above is not None:
            h = h + self.from_above(above)
        return self.rest(h)


def _product(likelihood: dist.Normal, prior: dist.Normal) -> dist.Normal:
    """Product of the two Gaussians: precisions add."""
    a, b = likelihood.scale**-2, prior.scale**-2
    variance = 1 / (a + b)
    return dist.Normal((likelihood.loc * a + prior.loc * b) * variance, variance.sqrt())


def _eq11(likelihood: dist.Normal, prior: dist.Normal) -> dist.Normal:
    """Equation 11 as printed and as published: 1 / (sum of precisions), a variance, used as the standard deviation."""
    a, b = likelihood.scale**-2, prior.scale**-2
    variance = 1 / (a + b)
    return dist.Normal((likelihood.loc * a + prior.loc * b) * variance, variance)


def _likelihood_only(likelihood: dist.Normal, prior: dist.Normal) -> dist.Normal:
    """No merge: the posterior is the bottom-up likelihood alone."""
    return likelihood


#: How the posterior is made of (likelihood, prior). Every choice is a valid guide; "product" is the exact update.
MERGES: dict[str, Callable[[dist.Normal, dist.Normal], dist.Normal]] = {
    "product": _product,
    "eq11": _eq11,
    "likelihood": _likelihood_only,
}


class LadderLayer(nn.Module):
    """One rung: the prior p(z^l | z^(l+1), x_<t), the likelihood network of its guide, and their merge.

    :param name: the name of the sample site, "z1" ... "zL".
    :param prior: network for equation 8.
    :param likelihood: network for equation 10.
    :param merge: a key of :data:`MERGES`.
    """

    def __init__(self, name: str, prior: nn.Module, likelihood: nn.Module, merge: str, recursive: bool = True):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge must be one of {sorted(MERGES)}, not {merge!r}")
        self.name = name
        self.prior_net = prior
        self.likelihood_net = likelihood
        self.merge = MERGES[merge]
        self.recursive = recursive

    def prior(self, d_past: Tensor, above: Tensor | None) -> dist.Normal:
        """p(z^l_t | z^(l+1)_t, x_<t) from the feature d^l_(t-1), equation 8."""
        return self.prior_net(d_past, above)

    def posterior(self, prior: dist.Normal, d: Tensor, above: Tensor | None) -> dist.Normal:
        """q(z^l_t | z^(l+1)_t, x_<=t) from the prior and the feature d^l_t, equations 10-11."""
        return self.merge(self.likelihood_net(d, above if self.recursive else None), prior)


@dataclass(frozen=True)
class LadderConfig:
    """Sizes of the ladder and the choices about its guide.

    :param latent_dims: channels of z1 ... zL; the paper's speech models use (256, 128, 64, 32, 16).
    :param hidden: width of the prior and likelihood networks; the paper's equals the width of the TCN.
    :param layers: hidden layers of each of these networks.
    :param merge: "product" (precisions add: the exact Gaussian update), "eq11" (the formula as printed, which uses
        that variance as a standard deviation), or "likelihood" (no merge).
    :param recursive_likelihood: whether the likelihood network of a layer sees the draw from the layer above.
    :param fixed_top_prior: give the top layer the prior N(0, I) instead of a learned one.
    """

    latent_dims: tuple[int, ...] = (256, 128, 64, 32, 16)
    hidden: int = 256
    layers: int = 2
    merge: str = "product"
    recursive_likelihood: bool = True
    fixed_top_prior: bool = False

    def __post_init__(self) -> None:
        if not self.latent_dims or min(self.latent_dims) < 1:
            raise ValueError(f"latent_dims must be positive, one per layer from z1 up, not {self.latent_dims}")
        if self.merge not in MERGES:
            raise ValueError(f"merge must be one of {sorted(MERGES)}, not {self.merge!r}")
        if self.layers < 1:
            raise ValueError("the prior and likelihood networks need at least one hidden layer")


class Ladder(nn.ModuleList):
    """The layers, z1 first: ``ladder[0]`` is nearest the data, ``ladder[-1]`` the top."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sample sites, "z1" ... "zL"."""
        return tuple(layer.name for layer in self)

    def __iter__(self) -> Iterator[LadderLayer]:
        return super().__iter__()  # type: ignore[return-value]

    def __reversed__(self) -> Iterator[LadderLayer]:
        return reversed(list(self))


def build_ladder(config: LadderConfig, feature_dims: tuple[int, ...]) -> Ladder:
    """Return the ladder for a backbone with these widths of its features, lowest first.

    :raises ValueError: when the backbone does not give one feature per layer.
    """
    dims, c = config.latent_dims, config
    if len(feature_dims) != len(dims):
        raise ValueError(
            f"a ladder of {len(dims)} layers needs as many features, but the backbone gives {len(feature_dims)}: "
            "change latent_dims or the groups of the backbone"
        )
    layers = []
    for i, (feature_dim, dim) in enumerate(zip(feature_dims, dims, strict=True)):
        above = dims[i + 1] if i + 1 < len(dims) else 0
        seen = above if c.recursive_likelihood else 0
        prior: nn.Module = GaussianNet(feature_dim, above, dim, c.hidden, c.layers)
        if c.fixed_top_prior and not above:
            prior = StandardNormal(dim)
        likelihood = GaussianNet(feature_dim, seen, dim, c.hidden, c.layers)
        layers.append(LadderLayer(f"z{i + 1}", prior, likelihood, c.merge, c.recursive_likelihood))
    return Ladder(layers)


def base_normal(distribution: dist.TorchDistribution) -> dist.Normal:
    """Return the Normal inside masks and reinterpreted batch dimensions: the merge needs its loc and scale."""
    while not isinstance(distribution, dist.Normal):
        distribution = distribution.base_dist
    return distribution
