"""Models and weights of the authors' released code (TensorFlow), read into this library.

``load_published(config, arrays)`` takes one of the released JSON configurations as a dict and the variables by name,
and returns an :class:`~pyro_stcn.models.STCN` or :class:`~pyro_stcn.models.WaveNet` that computes the same numbers.
Options of that code which change the model and which no released configuration uses are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ladder import GaussianNet, LadderConfig
from .models.stcn import STCN, STCNConfig
from .models.wavenet import WaveNet, WaveNetConfig
from .observation import (
    CausalOutput,
    CausalOutputConfig,
    GaussianMixtureConfig,
    GaussianMixtureHead,
    HeadConfig,
    NormalConfig,
    OutputConfig,
    PenStrokeConfig,
    PenStrokeHead,
    PointwiseOutputConfig,
)
from .tcn import DilatedTCN, DilatedTCNConfig

__all__ = ["load_published", "published_config", "published_weights"]

#: model class of that code -> the variable that reads the data
FIRST_VARIABLE = {
    "StochasticTCN": "encoder/temporal_block_1/conv1d/kernel",
    "TCN": "causal_conv_layer_0/conv1d/kernel",
}
WEIGHT_FLOOR = 1e-6  # of a mixture component, in the authors' log-likelihood
PEN_FLOOR = 1e-5  # of the pen's probability


def load_published(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> STCN | WaveNet:
    """Return the model of a released configuration with these weights.

    :param config: the JSON configuration, as a dict, of model class ``StochasticTCN`` or ``TCN``.
    :param arrays: TensorFlow variables by name, "encoder/temporal_block_1/conv1d/kernel" and so on.
    :raises ValueError: for an option that is not supported, and for variables that are missing, left over or of the
        wrong shape.
    """
    first = FIRST_VARIABLE.get(config["model_cls"])
    if first is None:
        raise ValueError(f"model_cls {config['model_cls']!r} is not supported; there are: {', '.join(FIRST_VARIABLE)}")
    if first not in arrays:
        raise ValueError(f"no variable {first!r} among the {len(arrays)} given: do the weights belong to the config?")
    net = published_config(config, arrays[first].shape[1]).build()
    net.load_state_dict(published_weights(net, arrays))
    return net


def published_config(config: Mapping[str, Any], data_dim: int) -> STCNConfig | WaveNetConfig:
    """Translate a released JSON configuration.

    :param data_dim: channels of a step: 200 for speech, 3 for handwriting.
    """
    _refuse_unsupported(config)
    if config["model_cls"] == "TCN":
        return _wavenet_config(config, data_dim)
    return _stcn_config(config, data_dim)


def _wavenet_config(config: Mapping[str, Any], data_dim: int) -> WaveNetConfig:
    cnn = config["cnn_layer"]
    return WaveNetConfig(
        data_dim=data_dim,
        dilations=tuple(cnn["dilation_size"]),
        filters=cnn["num_filters"],
        kernel_size=cnn["filter_size"],
        taps=None if cnn["use_skip"] else tuple(index + 1 for index in cnn["tcn_output_layer_idx"]),
        # That code ignores the width and the type in "output_layer".
        output=PointwiseOutputConfig(config["output_layer"]["num_layers"], cnn["num_filters"]),
        observation=_head_config(config["loss"]),
        predicts_first=False,
    )


def _stcn_config(config: Mapping[str, Any], data_dim: int) -> STCNConfig:
    cnn, latent, output = config["cnn_layer"], config["latent_layer"], config["output_layer"]
    per_layer = latent["vertical_dilation"]
    dilations = cnn["dilation_size"]
    if len(dilations) != per_layer * len(latent["latent_size"]):
        raise ValueError(
            f"{len(dilations)} blocks cannot be {len(latent['latent_size'])} stochastic layers of {per_layer} blocks"
        )
    groups = tuple(tuple(dilations[i : i + per_layer]) for i in range(0, len(dilations), per_layer))
    backbone = DilatedTCNConfig(groups, cnn["num_filters"], cnn["filter_size"])
    ladder = LadderConfig(
        latent_dims=tuple(latent["latent_size"]),
        hidden=latent["num_hidden_units"],
        layers=latent["num_hidden_layers"],
        merge="eq11" if latent.get("precision_weighted_update", True) else "likelihood",
        recursive_likelihood=latent.get("recursive_q", True),
        fixed_top_prior=latent.get("use_fixed_pz1", False),
    )
    width = output.get("size", 0)
    width = width if width >= 1 else backbone.filters
    out: OutputConfig = PointwiseOutputConfig(output["num_layers"], width)
    if output["type"] == "tcn":
        taps = output.get("filter_size", 0)
        out = CausalOutputConfig(output["num_layers"], width, taps if taps >= 1 else backbone.kernel_size)
    return STCNConfig(
        data_dim=data_dim,
        backbone=backbone,
        ladder=ladder,
        dense=latent.get("dense_z", False),
        output=out,
        observation=_head_config(config["loss"]),
        independent_draws=not latent.get("use_same_q_sample", False),
    )


def _head_config(losses: Mapping[str, Mapping[str, Any]]) -> HeadConfig:
    by_type = {loss["type"]: loss for loss in losses.values()}
    unknown = set(by_type) - {"nll_normal", "nll_gmm", "nll_bernoulli"}
    if unknown or len({"nll_normal", "nll_gmm"} & set(by_type)) != 1:
        raise ValueError(f"the losses {sorted(by_type)} are not a Normal or a GMM, with or without a Bernoulli pen")
    stroke: NormalConfig | GaussianMixtureConfig = NormalConfig()
    if "nll_gmm" in by_type:
        stroke = GaussianMixtureConfig(by_type["nll_gmm"]["num_components"], WEIGHT_FLOOR)
    return PenStrokeConfig(stroke, PEN_FLOOR) if "nll_bernoulli" in by_type else stroke


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    cnn, latent = config["cnn_layer"], config.get("latent_layer", {})
    output, inputs = config["output_layer"], config.get("input_layer") or {}
    needed = {
        "cnn_layer.activation_fn": (cnn.get("activation_fn", "relu"), "relu"),
        "cnn_layer.use_gating": (cnn.get("use_gating", True), True),
        "cnn_layer.use_residual": (cnn.get("use_residual", True), True),
        "cnn_layer.zero_padding": (cnn.get("zero_padding", True), True),
        "cnn_layer.num_decoder_layers": (cnn.get("num_decoder_layers", 0), 0),
        "input_layer.dropout_rate": (inputs.get("dropout_rate", 0), 0),
        "latent_layer.type": (latent.get("type", "latent_ladder_gaussian"), "latent_ladder_gaussian"),
        "latent_layer.layer_structure": (latent.get("layer_structure", "conv1"), "conv1"),
        "latent_layer.hidden_activation_fn": (latent.get("hidden_activation_fn", "relu"), "relu"),
        "latent_layer.latent_sigma_threshold": (latent.get("latent_sigma_threshold", 5.0), 5.0),
        "latent_layer.top_down_latents": (latent.get("top_down_latents", True), True),
        "latent_layer.dynamic_prior": (latent.get("dynamic_prior", True), True),
        "output_layer.type": (output.get("type", "conv1") in ("conv1", "tcn"), True),
        "decoder_use_enc_skip": (config.get("decoder_use_enc_skip", False), False),
        "decoder_use_enc_last": (config.get("decoder_use_enc_last", False), False),
        "decoder_use_raw_inputs": (config.get("decoder_use_raw_inputs", False), False),
    }
    for name, loss in config["loss"].items():
        needed[f"loss.{name}.weight"] = (loss.get("weight", 1), 1)
        needed[f"loss.{name}.sigma_threshold"] = (loss.get("sigma_threshold", 50.0), 50.0)
    for name, (value, supported) in needed.items():
        if value != supported:
            raise ValueError(
                f"{name}={value!r} is not supported: no released configuration has anything but {supported!r}"
            )


def published_weights(net: STCN | WaveNet, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Rearrange arrays named like the authors' variables (weights, or gradients of them) into this model's parameters.

    :returns: parameter name -> tensor, in the parameter's dtype.
    :raises ValueError: naming what is missing, left over or of the wrong shape.
    """
    read = _Translation(arrays)
    if isinstance(net, WaveNet):
        _read_wavenet(read, net)
    else:
        _read_stcn(read, net)
    return read.finish(net)


def _read_wavenet(read: _Translation, net: WaveNet) -> None:
    read.put("first", *read.take("causal_conv_layer_0/conv1d"))
    read.tcn("tcn", net.tcn, "temporal_block")
    for i in range(len(net.output.layers)):
        read.linear(f"output.layers.{i}", f"output_layer_hidden/conv1d_{i + 1}/conv1d")
    read.head("observation", net.observation, "output_layer")


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
    read.head("observation", net.observation, "output_layer/out")


class _Translation:
    """Takes the authors' arrays one by one, in our shapes and under our names, and remembers which were taken.

    Their convolutions are (taps, in, out) with tap 0 the oldest, ours (out, in, taps).
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.taken: set[str] = set()
        self.state: dict[str, Tensor] = {}

    def take(self, theirs: str) -> tuple[Tensor, Tensor]:
        """Return (weight (out, in, taps), bias (out,)) of one convolution."""
        names = f"{theirs}/kernel", f"{theirs}/bias"
        missing = [name for name in names if name not in self.arrays]
        if missing:
            raise ValueError(f"missing variables: {', '.join(missing)}")
        self.taken.update(names)
        kernel, bias = (self.arrays[name] for name in names)
        return torch.from_numpy(kernel.transpose(2, 1, 0).copy()), torch.from_numpy(np.array(bias))

    def put(self, ours: str, weight: Tensor, bias: Tensor) -> None:
        """Keep the parameters of one layer."""
        self.state[f"{ours}.weight"], self.state[f"{ours}.bias"] = weight, bias

    def linear(self, ours: str, theirs: str) -> None:
        """Translate a 1x1 convolution that is a linear layer here."""
        weight, bias = self.take(theirs)
        self.put(ours, weight.squeeze(-1), bias)

    def tcn(self, ours: str, tcn: DilatedTCN, theirs: str) -> None:
        """Translate gated blocks; filter and gate are one convolution here."""
        for i, block in enumerate(tcn.blocks):
            prefix, scope = f"{ours}.blocks.{i}", f"{theirs}_{i + 1}"
            both = zip(self.take(f"{scope}/conv1d"), self.take(f"{scope}/conv1d_1"), strict=True)
            self.put(f"{prefix}.filter_gate", *(torch.cat(pair) for pair in both))
            self.put(f"{prefix}.out", *self.take(f"{scope}/conv1d_2"))
            if isinstance(block.residual, torch.nn.Conv1d):
                self.put(f"{prefix}.residual", *self.take(f"{scope}/conv1d_3"))

    def trunk(self, ours: str, theirs: str, feature_dim: int, layers: int) -> None:
        """Translate the network of a mean or a scale; its first layer is split by what it reads."""
        weight, bias = self.take(f"{theirs}/conv1d")
        self.put(f"{ours}.from_features", weight[:, :feature_dim, 0], bias)
        if weight.shape[1] > feature_dim:
            self.state[f"{ours}.from_above.weight"] = weight[:, feature_dim:, 0]
        for i in range(1, layers + 1):
            self.linear(f"{ours}.rest.{2 * i - 1}", f"{theirs}/conv1d_{i}")

    def head(self, ours: str, head: torch.nn.Module, theirs: str) -> None:
        """Translate the layers that parameterise the observation."""
        if isinstance(head, PenStrokeHead):
            self.linear(f"{ours}.pen", f"{theirs}_out_binary/conv1d")
            ours, head = f"{ours}.stroke", head.stroke
        self.linear(f"{ours}.loc", f"{theirs}_out_mu/conv1d")
        self.linear(f"{ours}.scale", f"{theirs}_out_sigma/conv1d")
        if isinstance(head, GaussianMixtureHead):
            self.linear(f"{ours}.logits", f"{theirs}_out_coefficient/conv1d")
            components, dim = head.shape
            for name in (f"{ours}.{part}.{kind}" for part in ("loc", "scale") for kind in ("weight", "bias")):
                # theirs: feature by feature; here: component by component
                by_feature = self.state[name].unflatten(0, (dim, components))
                self.state[name] = by_feature.transpose(0, 1).flatten(0, 1)

    def finish(self, net: torch.nn.Module) -> dict[str, Tensor]:
        """Check that everything was taken and fits, and return it in the dtypes of the parameters."""
        left = sorted(set(self.arrays) - self.taken)
        if left:
            raise ValueError(f"{len(left)} variables belong to no part of this model, the first {left[0]!r}")
        parameters = dict(net.named_parameters())
        for name, value in self.state.items():
            ours = parameters[name].shape
            if value.shape != ours:
                raise ValueError(f"{name} is {tuple(value.shape)} in the file and {tuple(ours)} in the config")
        return {name: value.to(parameters[name].dtype) for name, value in self.state.items()}
