"""Arrays named and laid out as in the authors' TensorFlow code, rearranged into the parameters of our models.

A rearrangement is linear and keeps every number, so it serves weights and gradients alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ladder import GaussianNet
from .models.stcn import STCN
from .models.vrnn import VRNN
from .models.wavenet import WaveNet
from .nets import MLP, LSTMCell, SoftplusGaussian
from .observation import CausalOutput, GaussianMixtureHead, PenStrokeHead
from .tcn import DilatedTCN

__all__ = ["PublishedModel", "forget_bias", "published_constants", "published_weights"]

PublishedModel = STCN | VRNN | WaveNet
VRNN_SCOPE = "rnn_layer/rnn/VRNNCell"


def published_weights(net: PublishedModel, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Rearrange arrays named like the authors' variables (weights, or gradients of them) into this model's parameters.

    :returns: parameter name -> tensor, in the parameter's dtype. ``recurrence.bias_hh`` of a VRNN is not among them: in
        that code it is the constant :func:`forget_bias`.
    :raises ValueError: naming what is missing, left over or of the wrong shape.
    """
    read = _Translation(arrays)
    _READERS[type(net)](read, net)
    return read.finish(net)


def published_constants(net: PublishedModel) -> dict[str, Tensor]:
    """Return the parameters of this model that are constants in that code: a VRNN's forget bias."""
    return _CONSTANTS.get(type(net), lambda net: {})(net)


def forget_bias(cell: LSTMCell) -> Tensor:
    """Return what that code's LSTM adds to its gates beside its one bias: 1 for the forget gate, 0 for the others."""
    constant = torch.zeros_like(cell.bias_hh)
    constant[cell.hidden_size : 2 * cell.hidden_size] = 1  # torch's gates are input, forget, cell, output
    return constant


def _read_wavenet(read: _Translation, net: WaveNet) -> None:
    read.put("first", *read.take("causal_conv_layer_0/conv1d"))
    read.tcn("tcn", net.tcn, "temporal_block")
    for i in range(len(net.output.layers)):
        read.linear(f"output.layers.{i}", f"output_layer_hidden/conv1d_{i + 1}/conv1d")
    read.head("observation", net.observation, "output_layer_out_{}/conv1d")


def _read_stcn(read: _Translation, net: STCN) -> None:
    read.tcn("backbone", net.backbone, "encoder/temporal_block")
    for level, layer in enumerate(net.ladder, start=1):
        for ours, theirs, part in (("prior_net", "p", layer.prior_net), ("likelihood_net", "q", layer.likelihood_net)):
            if isinstance(part, GaussianNet):
                features, hidden_layers = net.backbone.feature_dims[level - 1], net.config.ladder.layers
                for moment, name in (("loc", "mu"), ("scale", "sigma")):
                    prefix = f"ladder.{level - 1}.{ours}.{moment}"
                    read.trunk(prefix, f"latent/{theirs}_{level}_{name}", features, hidden_layers)
    if isinstance(net.output, CausalOutput):
        read.tcn("output.tcn", net.output.tcn, "output_layer/out_convCCN")
    else:
        for i in range(len(net.output.layers)):
            read.linear(f"output.layers.{i}", f"output_layer/out_conv1d_{i + 1}/conv1d")
    read.head("observation", net.observation, "output_layer/out_out_{}/conv1d")


def _read_vrnn(read: _Translation, net: VRNN) -> None:
    for ours, theirs in (("data_features", "phi_x_input"), ("latent_features", "phi_z"), ("output", "phi_x_output")):
        read.hidden_layer(ours, getattr(net, ours), f"{VRNN_SCOPE}/{theirs}/dense")
    for ours, theirs in (("prior_net", "latent_z_p"), ("posterior_net", "latent_z_q")):
        read.gaussian(ours, getattr(net, ours), f"{VRNN_SCOPE}/{theirs}")
    read.lstm("recurrence", net.recurrence, f"{VRNN_SCOPE}/lstm_cell")
    read.head("observation", net.observation, f"{VRNN_SCOPE}/out_{{}}/dense")


class _Translation:
    """Takes the authors' arrays one by one, in our shapes and under our names, and remembers which were taken.

    Their convolutions are (taps, in, out) with tap 0 the oldest, ours (out, in, taps); their dense layers are
    (in, out), ours (out, in).
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.taken: set[str] = set()
        self.missing: list[str] = []
        self.state: dict[str, Tensor] = {}

    def take(self, theirs: str) -> tuple[Tensor, Tensor]:
        """Return (weight (out, in, taps) of a convolution or (out, in), bias (out,)) of one layer.

        What is missing is noted for :meth:`finish`, and stood in for by something of no use.
        """
        names = f"{theirs}/kernel", f"{theirs}/bias"
        axes = 3 if theirs.rpartition("/")[2].startswith("conv1d") else 2
        missing = [name for name in names if name not in self.arrays]
        self.missing += missing
        if missing:
            return torch.zeros((1,) * axes), torch.zeros(1)
        self.taken.update(names)
        kernel, bias = (np.asarray(self.arrays[name]) for name in names)
        if kernel.ndim != axes or bias.shape != kernel.shape[-1:]:
            raise ValueError(
                f"{names[0]!r} has shape {kernel.shape} and {names[1]!r} {bias.shape}, expected {axes} axes, and one "
                "of the length of the last"
            )
        for name, array in zip(names, (kernel, bias), strict=True):
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name!r} has values that are not finite, or no floats (dtype {array.dtype})")
        return torch.from_numpy(kernel.T.copy()), torch.from_numpy(np.array(bias))

    def matrix(self, theirs: str) -> tuple[Tensor, Tensor]:
        """Return (weight (out, in), bias (out,)) of a dense layer or a 1x1 convolution."""
        weight, bias = self.take(theirs)
        if weight.dim() == 3 and weight.shape[2] != 1:
            raise ValueError(f"'{theirs}/kernel' has {weight.shape[2]} taps, expected one")
        return weight.flatten(1), bias

    def put(self, ours: str, weight: Tensor, bias: Tensor) -> None:
        """Keep the parameters of one layer."""
        self.state[f"{ours}.weight"], self.state[f"{ours}.bias"] = weight, bias

    def linear(self, ours: str, theirs: str) -> None:
        """Translate a dense layer, or a 1x1 convolution that is a linear layer here."""
        self.put(ours, *self.matrix(theirs))

    def tcn(self, ours: str, tcn: DilatedTCN, theirs: str) -> None:
        """Translate gated blocks; filter and gate are one convolution here."""
        for i, block in enumerate(tcn.blocks):
            prefix, scope = f"{ours}.blocks.{i}", f"{theirs}_{i + 1}"
            both = self.take(f"{scope}/conv1d"), self.take(f"{scope}/conv1d_1")
            if both[0][0].shape != both[1][0].shape and not self.missing:
                raise ValueError(f"'{scope}/conv1d/kernel' and '{scope}/conv1d_1/kernel' differ in shape")
            if not self.missing:
                self.put(f"{prefix}.filter_gate", *(torch.cat(pair) for pair in zip(*both, strict=True)))
            self.put(f"{prefix}.out", *self.take(f"{scope}/conv1d_2"))
            if isinstance(block.residual, torch.nn.Conv1d):
                self.put(f"{prefix}.residual", *self.take(f"{scope}/conv1d_3"))

    def trunk(self, ours: str, theirs: str, feature_dim: int, layers: int) -> None:
        """Translate the network of a mean or a scale; its first layer is split by what it reads."""
        weight, bias = self.matrix(f"{theirs}/conv1d")
        self.put(f"{ours}.from_features", weight[:, :feature_dim], bias)
        if weight.shape[1] > feature_dim:
            self.state[f"{ours}.from_above.weight"] = weight[:, feature_dim:]
        for i in range(1, layers + 1):
            self.linear(f"{ours}.rest.{2 * i - 1}", f"{theirs}/conv1d_{i}")

    def hidden_layer(self, ours: str, mlp: MLP, theirs: str) -> None:
        """Translate the one layer of a perceptron; it is split by what it reads."""
        weight, bias = self.take(theirs)
        ends = list(accumulate(layer.in_features for layer in mlp.first))
        for i, part in enumerate(weight.tensor_split(ends[:-1], dim=1)):
            self.state[f"{ours}.first.{i}.weight"] = part
        self.state[f"{ours}.first.0.bias"] = bias

    def gaussian(self, ours: str, net: SoftplusGaussian, theirs: str) -> None:
        """Translate a mean and a scale on top of one hidden layer."""
        self.hidden_layer(f"{ours}.hidden", net.hidden, f"{theirs}/dense")
        self.linear(f"{ours}.loc", f"{theirs}/mu/dense")
        self.linear(f"{ours}.scale", f"{theirs}/sigma/dense")

    def lstm(self, ours: str, cell: LSTMCell, theirs: str) -> None:
        """Translate an LSTM: one kernel for inputs and state, and one bias; the gates are in another order here."""
        by_gate = (array.tensor_split(4) for array in self.take(theirs))
        weight, bias = (torch.cat([i, f, g, o]) for i, g, f, o in by_gate)
        self.state[f"{ours}.weight_ih"], self.state[f"{ours}.weight_hh"] = weight.tensor_split([cell.input_size], dim=1)
        self.state[f"{ours}.bias_ih"] = bias

    def head(self, ours: str, head: torch.nn.Module, theirs: str) -> None:
        """Translate the layers that parameterise the observation; ``{}`` in their name stands for what they give."""
        if isinstance(head, PenStrokeHead):
            self.linear(f"{ours}.pen", theirs.format("binary"))
            ours, head = f"{ours}.stroke", head.stroke
        self.linear(f"{ours}.loc", theirs.format("mu"))
        self.linear(f"{ours}.scale", theirs.format("sigma"))
        if isinstance(head, GaussianMixtureHead):
            self.linear(f"{ours}.logits", theirs.format("coefficient"))
            components, dim = head.shape
            if self.missing or len(self.state[f"{ours}.loc.bias"]) != components * dim:
                return  # what :meth:`finish` says
            for name in (f"{ours}.{part}.{kind}" for part in ("loc", "scale") for kind in ("weight", "bias")):
                # theirs: feature by feature; here: component by component
                by_feature = self.state[name].unflatten(0, (dim, components))
                self.state[name] = by_feature.transpose(0, 1).flatten(0, 1)

    def finish(self, net: PublishedModel) -> dict[str, Tensor]:
        """Check that everything was taken and fits, and return it in the dtypes of the parameters."""
        if self.missing:
            names = ", ".join(self.missing[:6]) + f" and {len(self.missing) - 6} more" * (len(self.missing) > 6)
            raise ValueError(f"missing variables: {names}")
        left = sorted(set(self.arrays) - self.taken)
        if left:
            raise ValueError(f"{len(left)} variables belong to no part of this model, the first {left[0]!r}")
        parameters = dict(net.named_parameters())
        for name, value in self.state.items():
            if name in parameters and value.shape != parameters[name].shape:
                ours = tuple(parameters[name].shape)
                raise ValueError(f"{name} is {tuple(value.shape)} in the file and {ours} in the config")
        differ = set(self.state) ^ (set(parameters) - set(published_constants(net)))
        if differ:  # a part that reads what another kind of model has, or has not
            raise ValueError(f"{min(differ)} is in the file or in the config, and not in both")
        return {name: value.to(parameters[name].dtype) for name, value in self.state.items()}


_READERS: dict[type, Callable[[_Translation, Any], None]] = {
    STCN: _read_stcn,
    VRNN: _read_vrnn,
    WaveNet: _read_wavenet,
}

_CONSTANTS: dict[type, Callable[[Any], dict[str, Tensor]]] = {
    VRNN: lambda net: {"recurrence.bias_hh": forget_bias(net.recurrence)},
}
