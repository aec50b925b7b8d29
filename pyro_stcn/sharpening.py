"""Distributions made sharper or flatter than the model's: temperature, and a bias towards probable strokes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger

from .discretised import DiscretisedMixture
from .distributions import DiagonalGaussianMixture, PenStroke

__all__ = ["TemperedLatents", "sharpened"]

LEAST, MOST = 1e-30, 1e6  # by which a scale can be multiplied


def sharpened(distribution: Any, temperature: float = 1.0, bias: float = 0.0) -> Any:
    """Return the distribution of a step, made sharper.

    A temperature multiplies scales and divides the logits of components, bits and categories: 0.5 is sharper, 2 is
    flatter, and what comes out is not the model's distribution any more. A bias b of at least 0 (Graves 2013)
    multiplies scales by exp(-b) and the logits of components by 1 + b, and leaves bits (the pen) and categories alone:
    handwriting becomes more regular.

    :param distribution: of one of this library's heads.
    :param temperature: greater than 0.
    :param bias: 0 for none.
    :raises ValueError: for a temperature that is not positive, a negative bias, or one that may leave no number.
    :raises TypeError: for another distribution.
    """
    if not LEAST <= temperature <= MOST or not 0 <= bias <= math.log(MOST):
        raise ValueError(
            f"temperature must be from {LEAST:g} to {MOST:g}, and bias from 0 to {math.log(MOST):.3g}, not "
            f"{temperature} and {bias}: beyond that scales are no numbers any more"
        )
    if temperature == 1 and bias == 0:
        return distribution
    scale, logits = temperature * math.exp(-bias), (1 + bias) / temperature
    if isinstance(distribution, torch.distributions.Independent):
        base = sharpened(distribution.base_dist, temperature, bias)
        return base.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, dist.Normal):
        return dist.Normal(distribution.loc, distribution.scale * scale)
    if isinstance(distribution, dist.Bernoulli):
        return dist.Bernoulli(logits=distribution.logits / temperature)
    if isinstance(distribution, dist.OneHotCategorical):
        return dist.OneHotCategorical(logits=distribution.logits / temperature, validate_args=False)
    if isinstance(distribution, DiagonalGaussianMixture):
        return DiagonalGaussianMixture(
            distribution.logits * logits, distribution.loc, distribution.scale * scale, distribution.floor
        )
    if isinstance(distribution, DiscretisedMixture):
        return DiscretisedMixture(
            distribution.logits * logits,
            distribution.loc,
            distribution.scale * scale,
            distribution.grid,
            distribution.bins,
        )
    if isinstance(distribution, PenStroke):
        stroke = sharpened(distribution.stroke, temperature, bias)
        return PenStroke(stroke, distribution.pen_logits / temperature, distribution.floor)
    raise TypeError(f"it is not known how to sharpen a {type(distribution).__name__}")


class TemperedLatents(Messenger):
    """Multiplies the scales of latents, site by site, wherever a model draws them.

    :param temperatures: of a layer by its name; layers that are not named keep theirs.
    """

    def __init__(self, temperatures: Mapping[str, float]):
        super().__init__()
        self.temperatures = temperatures

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.temperatures and not msg["is_observed"]:
            msg["fn"] = sharpened(msg["fn"], self.temperatures[msg["name"]])
