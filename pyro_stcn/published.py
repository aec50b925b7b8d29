"""Models and weights of the authors' released STCN code (TensorFlow), read into this library.

``load_published(config, arrays)`` takes one of the released JSON configurations as a dict and the variables by name,
and returns an
:class:`~pyro_stcn.models.STCN` that computes the same numbers. Options of that code which no released configuration
uses and which change the model are refused by name; none is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ladder import GaussianNet, LadderConfig
from .models.stcn import STCN, STCNConfig
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

WEIGHT_FLOOR = 1e-6  # of a mixture component, in the authors' log-likelihood
PEN_FLOOR = 1e-5  # of the pen's probability


def load_published(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> STCN:
    """Return the STCN of a released configuration with these weights.

    :param config: the JSON configuration, as a dict.
    :param arrays: TensorFlow variables by name, "encoder/temporal_block_1/conv1d/kernel" and so on.
    :raises ValueError: for an option that is not supported, and for variables that are missing, left over or of the
        wrong shape.
    """
    first = "encoder/temporal_block_1/conv1d/kernel"
    if first not in arrays:
        raise ValueError(f"no variable {first!r} among the {len(arrays)} given: is this an STCN of the authors' code?")
    net = published_config(config, arrays[first].shape[1]).build()
    net.load_state_dict(published_weights(net, arrays))
    return net


def published_config(config: Mapping[str, Any], data_dim: int) -> STCNConfig:
    """Translate a released JSON configuration of model class ``StochasticTCN``.

    :param data_dim: channels of a step: 200 for speech, 3 for handwriting.
    """
    cnn, latent, output = config["cnn_layer"], config["latent_layer"], config["output_layer"]
    _refuse_unsupported(config)
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
    cnn, latent = config["cnn_layer"], config["latent_layer"]
    needed = {
        "model_cls": (config.get("model_cls", "StochasticTCN"), "StochasticTCN"),
        "cnn_layer.use_gating": (cnn.get("use_gating", True), True),
        "cnn_layer.use_residual": (cnn.get("use_residual", True), True),
        "cnn_layer.zero_padding": (cnn.get("zero_padding", True), True),
        "cnn_layer.num_decoder_layers": (cnn.get("num_decoder_layers", 0), 0),
        "latent_layer.layer_structure": (latent.get("layer_structure", "conv1"), "conv1"),
        "latent_layer.hidden_activation_fn": (latent.get("hidden_activation_fn", "relu"), "relu"),
        "latent_layer.latent_sigma_threshold": (latent.get("latent_sigma_threshold", 5.0), 5.0),
        "latent_layer.top_down_latents": (latent.get("top_down_latents", True), True),
        "latent_layer.dynamic_prior": (latent.get("dynamic_prior", True), True),
        "decoder_use_enc_skip": (config.get("decoder_use_enc_skip", False), False),
        "decoder_use_enc_last": (config.get("decoder_use_enc_last", False), False),
        "decoder_use_raw_inputs": (config.get("decoder_use_raw_inputs", False), False),
    }
    for name, (value, supported) in needed.items():
        if value != supported:
            raise ValueError(f"{name}={value!r} is not supported: no released STCN uses anything but {supported!r}")


def published_weights(net: STCN, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Rearrange arrays named like the authors' variables (weights, or gradients of them) into this model's parameters.

    :returns: parameter name -> tensor, in the parameter's dtype.
    :raises ValueError: naming what is missing, left over or of the wrong shape.
    """
    reader = _Reader(arrays)
    state: dict[str, Tensor] = {}

    def read_tcn(ours: str, tcn: DilatedTCN, theirs: str) -> None:
        for i, block in enumerate(tcn.blocks):
            scope = f"{theirs}_{i + 1}"
            signal, gate = reader.conv(f"{scope}/conv1d"), reader.conv(f"{scope}/conv1d_1")
            state[f"{ours}.blocks.{i}.filter_gate.weight"] = torch.cat([signal[0], gate[0]])
            state[f"{ours}.blocks.{i}.filter_gate.bias"] = torch.cat([signal[1], gate[1]])
            state[f"{ours}.blocks.{i}.out.weight"], state[f"{ours}.blocks.{i}.out.bias"] = reader.conv(
                f"{scope}/conv1d_2"
            )
            if isinstance(block.residual, torch.nn.Conv1d):
                weight, bias = reader.conv(f"{scope}/conv1d_3")
                (
                    state[f"{ours}.blocks.{i}.residual.weight"],
                    state[f"{ours}.blocks.{i}.residual.bias"],
                ) = weight, bias

    def read_linear(ours: str, theirs: str) -> None:
        weight, bias = reader.conv(theirs)
        state[f"{ours}.weight"], state[f"{ours}.bias"] = weight.squeeze(-1), bias

    def read_trunk(ours: str, theirs: str, feature_dim: int, layers: int) -> None:
        weight, bias = reader.conv(f"{theirs}/conv1d")
        state[f"{ours}.from_features.weight"] = weight[:, :feature_dim, 0]
        state[f"{ours}.from_features.bias"] = bias
        if weight.shape[1] > feature_dim:
            state[f"{ours}.from_above.weight"] = weight[:, feature_dim:, 0]
        for i in range(1, layers + 1):
            read_linear(f"{ours}.rest.{2 * i - 1}", f"{theirs}/conv1d_{i}")

    read_tcn("backbone", net.backbone, "encoder/temporal_block")
    for i, layer in enumerate(net.ladder):
        for ours, theirs in (("prior_net", "p"), ("likelihood_net", "q")):
            if isinstance(getattr(layer, ours), GaussianNet):
                for part, name in (("loc", "mu"), ("scale", "sigma")):
                    theirs_full = f"latent/{theirs}_{i + 1}_{name}"
                    layers = net.config.ladder.layers
                    read_trunk(
                        f"ladder.{i}.{ours}.{part}",
                        theirs_full,
                        net.backbone.feature_dims[i],
                        layers,
                    )

    if isinstance(net.output, CausalOutput):
        read_tcn("output.tcn", net.output.tcn, "output_layer/out_convCCN")
    else:
        for i in range(len(net.output.layers)):
            read_linear(f"output.layers.{i}", f"output_layer/out_conv1d_{i + 1}/conv1d")

    stroke, prefix = net.observation, "observation"
    if isinstance(stroke, PenStrokeHead):
        read_linear("observation.pen", "output_layer/out_out_binary/conv1d")
        stroke, prefix = stroke.stroke, "observation.stroke"
    read_linear(f"{prefix}.loc", "output_layer/out_out_mu/conv1d")
    read_linear(f"{prefix}.scale", "output_layer/out_out_sigma/conv1d")
    if isinstance(stroke, GaussianMixtureHead):
        read_linear(f"{prefix}.logits", "output_layer/out_out_coefficient/conv1d")
        for part in ("loc", "scale"):  # theirs: feature by feature; here: component by component
            for kind in ("weight", "bias"):
                value = state[f"{prefix}.{part}.{kind}"]
                components, dim = stroke.shape
                state[f"{prefix}.{part}.{kind}"] = value.unflatten(0, (dim, components)).transpose(0, 1).flatten(0, 1)

    reader.check_all_used()
    parameters = dict(net.named_parameters())
    for name, value in state.items():
        if value.shape != parameters[name].shape:
            raise ValueError(
                f"{name} is {tuple(value.shape)} in the file and {tuple(parameters[name].shape)} in the config"
            )
    return {name: value.to(parameters[name].dtype) for name, value in state.items()}


class _Reader:
    """Reads TensorFlow convolutions (taps, in, out), tap 0 the oldest, and remembers which were read."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.used: set[str] = set()

    def conv(self, scope: str) -> tuple[Tensor, Tensor]:
        """Return (weight (out, in, taps), bias (out,))."""
        missing = {f"{scope}/kernel", f"{scope}/bias"} - set(self.arrays)
        if missing:
            raise ValueError(f"missing variables: {', '.join(sorted(missing))}")
        self.used |= {f"{scope}/kernel", f"{scope}/bias"}
        kernel, bias = self.arrays[f"{scope}/kernel"], self.arrays[f"{scope}/bias"]
        return torch.from_numpy(kernel.transpose(2, 1, 0).copy()), torch.from_numpy(np.array(bias))

    def check_all_used(self) -> None:
        left = sorted(set(self.arrays) - self.used)
        if left:
            raise ValueError(f"{len(left)} variables belong to no part of this model, the first {left[0]!r}")
