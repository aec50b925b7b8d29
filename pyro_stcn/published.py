"""Models and weights of the authors' released code (TensorFlow), read into this library.

``load_published(config, arrays)`` takes one of the released JSON configurations as a dict and the variables by name,
and returns an :class:`~pyro_stcn.models.STCN`, :class:`~pyro_stcn.models.WaveNet` or
:class:`~pyro_stcn.models.VRNN` that computes the same numbers.
Options of that code which change the model and which no released configuration uses are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .ladder import LadderConfig
from .models.stcn import STCNConfig
from .models.vrnn import VRNNConfig
from .models.wavenet import WaveNetConfig
from .observation import (
    CausalOutputConfig,
    GaussianMixtureConfig,
    HeadConfig,
    NormalConfig,
    OutputConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from .published_arrays import VRNN_SCOPE, PublishedModel, published_constants, published_weights
from .tcn import DilatedTCNConfig

__all__ = ["load_published", "published_config", "published_weights"]

WEIGHT_FLOOR = 1e-6  # of a mixture component, in the authors' log-likelihood
PEN_FLOOR = 1e-5  # of the pen's probability


def load_published(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PublishedModel:
    """Return the model of a released configuration with these weights.

    :param config: the JSON configuration, as a dict, of model class ``StochasticTCN``, ``TCN`` or ``VRNN``.
    :param arrays: TensorFlow variables by name, "encoder/temporal_block_1/conv1d/kernel" and so on.
    :raises ValueError: for an option that is not supported, and for variables that are missing, left over or of the
        wrong shape.
    """
    first = _model_class(config).first_variable
    if first not in arrays:
        raise ValueError(f"no variable {first!r} among the {len(arrays)} given: do the weights belong to the config?")
    net = published_config(config, arrays[first].shape[-2]).build()
    net.load_state_dict(published_weights(net, arrays) | published_constants(net))
    return net


def published_config(config: Mapping[str, Any], data_dim: int) -> STCNConfig | VRNNConfig | WaveNetConfig:
    """Translate a released JSON configuration.

    :param data_dim: channels of a step: 200 for speech, 3 for handwriting.
    """
    _refuse_unsupported(config)
    return _model_class(config).translate(config, data_dim)


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


def _vrnn_config(config: Mapping[str, Any], data_dim: int) -> VRNNConfig:
    # The scales of that code's latents have no floor, but their KL has one: it takes a prior's variance for at least
    # 1e-6. Here the scales themselves are at least 1e-4. The two differ only where one has shrunk below 1e-3.
    return VRNNConfig(
        data_dim=data_dim,
        latent_dim=config["latent_size"],
        width=config["latent_rnn"]["size"],
        layers=config["num_fc_layers"],
        # That code ignores the width and the number of layers in "output_layer".
        data_width=config["hidden_size"],
        latent_width=config["latent_hidden_size"],
        feature_width=config["hidden_size"],
        observation=_head_config(config["loss"]),
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
    needed = _model_class(config).needed(config)
    for name in ("decoder_use_enc_skip", "decoder_use_enc_last", "decoder_use_raw_inputs"):
        needed[name] = (config.get(name, False), False)
    for name, loss in config["loss"].items():
        needed[f"loss.{name}.weight"] = (loss.get("weight", 1), 1)
        needed[f"loss.{name}.sigma_threshold"] = (loss.get("sigma_threshold", 50.0), 50.0)
    for name, (value, supported) in needed.items():
        if value != supported:
            raise ValueError(
                f"{name}={value!r} is not supported: no released configuration has anything but {supported!r}"
            )


def _needed_of_tcn(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Option -> (what it is, the only value supported)."""
    cnn, latent = config["cnn_layer"], config.get("latent_layer", {})
    output, inputs = config["output_layer"], config.get("input_layer") or {}
    return {
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
    }


def _needed_of_vrnn(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Option -> (what it is, the only value supported)."""
    rnn = config["latent_rnn"]
    return {
        "vrnn_cell_cls": (config.get("vrnn_cell_cls", "VRNNCell"), "VRNNCell"),
        "additive_q_mu": (config.get("additive_q_mu", False), False),
        "use_latent_h_in_outputs": (config.get("use_latent_h_in_outputs", True), True),
        "latent_rnn.cell_type": (rnn.get("cell_type", "lstm"), "lstm"),
        "latent_rnn.num_layers": (rnn.get("num_layers", 1), 1),
        "num_fc_layers": (config["num_fc_layers"], 1),
        "fc_layer_activation_func": (config.get("fc_layer_activation_func", "relu"), "relu"),
        "use_batch_norm_fc": (config.get("use_batch_norm_fc", False), False),
        "input_keep_prop": (config.get("input_keep_prop", 1), 1),
        "input_layer": (config.get("input_layer"), None),
    }


class _ModelClass(NamedTuple):
    """A model class of that code."""

    first_variable: str  # the one that reads the data
    translate: Callable[[Mapping[str, Any], int], STCNConfig | VRNNConfig | WaveNetConfig]
    needed: Callable[[Mapping[str, Any]], dict[str, tuple[Any, Any]]]


_MODEL_CLASSES = {
    "StochasticTCN": _ModelClass("encoder/temporal_block_1/conv1d/kernel", _stcn_config, _needed_of_tcn),
    "TCN": _ModelClass("causal_conv_layer_0/conv1d/kernel", _wavenet_config, _needed_of_tcn),
    "VRNN": _ModelClass(f"{VRNN_SCOPE}/phi_x_input/dense/kernel", _vrnn_config, _needed_of_vrnn),
}


def _model_class(config: Mapping[str, Any]) -> _ModelClass:
    name = config["model_cls"]
    if name not in _MODEL_CLASSES:
        raise ValueError(f"model_cls {name!r} is not supported; there are: {', '.join(_MODEL_CLASSES)}")
    return _MODEL_CLASSES[name]
