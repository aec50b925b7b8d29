"""Distributions of a step of which some dimensions are known: what those are worth, and a draw of the others."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Bernoulli, Normal, OneHotCategorical
from torch import Tensor

from .discretised import DiscretisedMixture
from .distributions import DiagonalGaussianMixture, PenStroke

__all__ = ["complete"]


def complete(distribution: Any, value: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(observed dimensions) and the value with the others drawn given them.

    :param distribution: of one of this library's heads, batch shape ``(...)``, event shape ``(D,)``.
    :param value: ``(..., D)``; what lies at dimensions that are not observed is not read.
    :param observed: bool ``(..., D)``, broadcast against it.
    :returns: ``(...)`` and ``(..., D)``; both are exact.
    :raises TypeError: for another distribution.
    """
    value = torch.where(observed, value, value.new_zeros(()))
    if isinstance(distribution, torch.distributions.Independent):
        base = distribution.base_dist
        if isinstance(base, (Normal, Bernoulli)):  # dimensions are independent
            known = torch.where(observed, base.log_prob(value), value.new_zeros(()))
            return known.sum(-1), torch.where(observed, value, base.sample())
    if isinstance(distribution, (DiagonalGaussianMixture, DiscretisedMixture)):
        # What is known of a step says which component it is from, and through that something of the rest.
        known = torch.where(observed.unsqueeze(-2), distribution.component_log_prob(value), value.new_zeros(()))
        logits = distribution.logits + known.sum(-1)
        return logits.logsumexp(-1), torch.where(observed, value, distribution.weighted(logits).sample())
    if isinstance(distribution, OneHotCategorical):
        # A 1 tells the category; zeros rule theirs out, and the others keep their proportions.
        chosen = ((value == 1) & observed).any(-1, keepdim=True)
        possible = torch.where(chosen, (value == 1) & observed, ~observed)
        logits = torch.where(possible, distribution.logits, -torch.inf)
        known = logits.logsumexp(-1)
        if not torch.isfinite(known).all():
            raise ValueError("every category of a step is observed to be 0, and one must be 1")
        drawn = OneHotCategorical(logits=logits - known.unsqueeze(-1), validate_args=False).sample()
        return known, torch.where(observed, value, drawn)
    if isinstance(distribution, PenStroke):
        known, stroke = complete(distribution.stroke, value[..., :-1], observed[..., :-1])
        pen = Bernoulli(logits=distribution.pen_logits.unsqueeze(-1)).to_event(1)
        bit, drawn = complete(pen, value[..., -1:], observed[..., -1:])
        return known + bit, torch.cat([stroke, drawn], dim=-1)
    raise TypeError(f"it is not known how to complete a step of a {type(distribution).__name__}")
