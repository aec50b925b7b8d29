"""How linear maps and convolutions start: Glorot-uniform kernels and zero biases, as in the authors' code."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["glorot_uniform_"]


@torch.no_grad()
def glorot_uniform_(module: nn.Linear | nn.Conv1d, fan_in: int = 0, fan_out: int = 0) -> None:
    """Fill the weight from U(-a, a), ``a = sqrt(6 / (fan_in + fan_out))``, and the bias, if any, with zeros.

    :param fan_in: default: inputs times kernel size; to be given where a layer holds only some of a larger layer's
        inputs.
    :param fan_out: default: outputs times kernel size; to be given where a layer holds several layers' outputs.
    """
    taps = math.prod(module.weight.shape[2:])
    fan_in = fan_in or module.weight.shape[1] * taps
    fan_out = fan_out or module.weight.shape[0] * taps
    bound = math.sqrt(6 / (fan_in + fan_out))
    module.weight.uniform_(-bound, bound)
    if module.bias is not None:
        module.bias.zero_()
