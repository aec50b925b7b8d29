"""Models and weights of the authors' released code (TensorFlow), read into this library.

``load_published(config, arrays)`` takes one of the released JSON configurations as a dict and the variables by name,
and returns an :class:`~pyro_stcn.models.STCN`, :class:`~pyro_stcn.models.WaveNet` or
:class:`~pyro_stcn.models.VRNN` that computes the same numbers.
Options of that code which change the model and which no released configuration uses are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

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
from .published_options import Options
from .tcn import DilatedTCNConfig

__all__ = ["load_published", "published_config", "published_data_dim", "published_weights", "valid_twin"]

WEIGHT_FLOOR = 1e-6  # of a mixture component, in the authors' log-likelihood
PEN_FLOOR = 1e-5  # of the pen's probability


def load_published(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PublishedModel:
    """Return the model of a released configuration with these weights.

    :param config: the JSON configuration, as a dict, of model class ``StochasticTCN``, ``TCN`` or ``VRNN``.
    :param arrays: TensorFlow variables by name, "encoder/temporal_block_1/conv1d/kernel" and so on.
    :raises ValueError: for an option that is missing or not supported, and for variables that are missing, left over,
        not finite or of the wrong shape.
    """
    ours = published_config(config, published_data_dim(config, arrays))
    with torch.device("meta"):  # no memory is taken before it is known that the weights are there
        weights = published_weights(ours.build(), arrays)
    net = ours.build()
    net.load_state_dict(weights | published_constants(net))
    return net


def published_data_dim(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> int:
    """Return the channels of a step that the first layer reads.

    :raises ValueError: where there is no such layer.
    """
    first = _model_class(Options(config)).first_variable
    if first not in arrays:
        raise ValueError(f"no variable {first!r} among the {len(arrays)} given: do the weights belong to the config?")
    if arrays[first].ndim < 2:
        raise ValueError(f"{first!r} has shape {arrays[first].shape}, and is no kernel")
    return arrays[first].shape[-2]


def published_config(config: Mapping[str, Any], data_dim: int) -> STCNConfig | VRNNConfig | WaveNetConfig:
    """Translate a released JSON configuration.

    :param data_dim: channels of a step: 200 for speech, 3 for handwriting.
    :raises ValueError: for an option that is missing or not supported, by its whole name.
    """
    options = Options(config)
    _refuse_unsupported(options)
    return _model_class(options).translate(options, data_dim)


def valid_twin(net: PublishedModel) -> PublishedModel:
    """Return a model with the same weights whose figures are what they are called.

    Each latent is drawn once (STCN), and the head is a density: no floor below the weights of a mixture or the pen's
    probability. Equation 11 stays, as the guide was trained with it, and any guide gives a bound.
    """
    changes: dict[str, Any] = {"observation": _without_floor(net.config.observation)}
    if isinstance(net.config, STCNConfig):
        changes["independent_draws"] = False
    twin = replace(net.config, **changes).build()
    twin.load_state_dict(net.state_dict())
    return twin.to(next(net.parameters()))


def _without_floor(head: HeadConfig) -> HeadConfig:
    if isinstance(head, PenStrokeConfig):
        return replace(head, stroke=_without_floor(head.stroke), floor=0.0)
    return replace(head, floor=0.0) if isinstance(head, GaussianMixtureConfig) else head


def _wavenet_config(config: Options, data_dim: int) -> WaveNetConfig:
    cnn = config.section("cnn_layer")
    dilations, filters = cnn.sizes("dilation_size"), cnn.size("num_filters")
    taps = None
    if not cnn.flag("use_skip", True):
        taps = tuple(index + 1 for index in cnn.sizes("tcn_output_layer_idx", low=0))
        if max(taps) > len(dilations):
            raise ValueError(
                f"cnn_layer.tcn_output_layer_idx has {max(taps) - 1}, and there are {len(dilations)} blocks"
            )
    return WaveNetConfig(
        data_dim=data_dim,
        dilations=dilations,
        filters=filters,
        kernel_size=cnn.size("filter_size"),
        taps=taps,
        # That code ignores the width and the type in "output_layer".
        output=PointwiseOutputConfig(config.section("output_layer").count("num_layers"), filters),
        observation=_head_config(config.section("loss")),
        predicts_first=False,
    )


def _stcn_config(config: Options, data_dim: int) -> STCNConfig:
    cnn, latent, output = (config.section(name) for name in ("cnn_layer", "latent_layer", "output_layer"))
    per_layer, dilations, sizes = (
        latent.size("vertical_dilation"),
        cnn.sizes("dilation_size"),
        latent.sizes("latent_size"),
    )
    if len(dilations) != per_layer * len(sizes):
        raise ValueError(f"{len(dilations)} blocks cannot be {len(sizes)} stochastic layers of {per_layer} blocks")
    groups = tuple(tuple(dilations[i : i + per_layer]) for i in range(0, len(dilations), per_layer))
    backbone = DilatedTCNConfig(groups, cnn.size("num_filters"), cnn.size("filter_size"))
    ladder = LadderConfig(
        latent_dims=sizes,
        hidden=latent.size("num_hidden_units"),
        layers=latent.count("num_hidden_layers"),
        merge="eq11" if latent.flag("precision_weighted_update", True) else "likelihood",
        recursive_likelihood=latent.flag("recursive_q", True),
        fixed_top_prior=latent.flag("use_fixed_pz1", False),
    )
    width, layers = output.size_or("size", backbone.filters), output.count("num_layers")
    out: OutputConfig = PointwiseOutputConfig(layers, width)
    if output.text("type") == "tcn":
        out = CausalOutputConfig(layers, width, output.size_or("filter_size", backbone.kernel_size))
    return STCNConfig(
        data_dim=data_dim,
        backbone=backbone,
        ladder=ladder,
        dense=latent.flag("dense_z", False),
        output=out,
        observation=_head_config(config.section("loss")),
        independent_draws=not latent.flag("use_same_q_sample", False),
    )


def _vrnn_config(config: Options, data_dim: int) -> VRNNConfig:
    # The scales of that code's latents have no floor, but their KL has one: it takes a prior's variance for at least
    # 1e-6. Here the scales themselves are at least 1e-4. The two differ only where one has shrunk below 1e-3.
    return VRNNConfig(
        data_dim=data_dim,
        latent_dim=config.size("latent_size"),
        width=config.section("latent_rnn").size("size"),
        layers=config.count("num_fc_layers"),
        # That code ignores the width and the number of layers in "output_layer".
        data_width=config.size("hidden_size"),
        latent_width=config.size("latent_hidden_size"),
        feature_width=config.size("hidden_size"),
        observation=_head_config(config.section("loss")),
    )


def _head_config(losses: Options) -> HeadConfig:
    by_type = {loss.text("type"): loss for loss in losses.sections().values()}
    unknown = set(by_type) - {"nll_normal", "nll_gmm", "nll_bernoulli"}
    if unknown or len({"nll_normal", "nll_gmm"} & set(by_type)) != 1:
        raise ValueError(f"the losses {sorted(by_type)} are not a Normal or a GMM, with or without a Bernoulli pen")
    stroke: NormalConfig | GaussianMixtureConfig = NormalConfig()
    if "nll_gmm" in by_type:
        stroke = GaussianMixtureConfig(by_type["nll_gmm"].size("num_components"), WEIGHT_FLOOR)
    return PenStrokeConfig(stroke, PEN_FLOOR) if "nll_bernoulli" in by_type else stroke


def _refuse_unsupported(config: Options) -> None:
    needed = _model_class(config).needed(config)
    for name in ("decoder_use_enc_skip", "decoder_use_enc_last", "decoder_use_raw_inputs"):
        needed[name] = (config.get(name, False), False)
    for loss in config.section("loss").sections().values():
        needed[loss.name("weight")] = (loss.get("weight", 1), 1)
        needed[loss.name("sigma_threshold")] = (loss.get("sigma_threshold", 50.0), 50.0)
    for name, (value, supported) in needed.items():
        if value != supported:
            raise ValueError(
                f"{name}={value!r} is not supported: no released configuration has anything but {supported!r}"
            )


def _needed_of_tcn(config: Options) -> dict[str, tuple[Any, Any]]:
    """Option -> (what it is, the only value supported)."""
    cnn, latent = config.section("cnn_layer"), config.section("latent_layer", optional=True)
    output, inputs = config.section("output_layer"), config.section("input_layer", optional=True)
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


def _needed_of_vrnn(config: Options) -> dict[str, tuple[Any, Any]]:
    """Option -> (what it is, the only value supported)."""
    rnn = config.section("latent_rnn")
    return {
        "vrnn_cell_cls": (config.get("vrnn_cell_cls", "VRNNCell"), "VRNNCell"),
        "additive_q_mu": (config.get("additive_q_mu", False), False),
        "use_latent_h_in_outputs": (config.get("use_latent_h_in_outputs", True), True),
        "latent_rnn.cell_type": (rnn.get("cell_type", "lstm"), "lstm"),
        "latent_rnn.num_layers": (rnn.get("num_layers", 1), 1),
        "num_fc_layers": (config.count("num_fc_layers"), 1),
        "fc_layer_activation_func": (config.get("fc_layer_activation_func", "relu"), "relu"),
        "use_batch_norm_fc": (config.get("use_batch_norm_fc", False), False),
        "input_keep_prop": (config.get("input_keep_prop", 1), 1),
        "input_layer": (config.get("input_layer", None), None),
    }


class _ModelClass(NamedTuple):
    """A model class of that code."""

    first_variable: str  # the one that reads the data
    translate: Callable[[Options, int], STCNConfig | VRNNConfig | WaveNetConfig]
    needed: Callable[[Options], dict[str, tuple[Any, Any]]]


_MODEL_CLASSES = {
    "StochasticTCN": _ModelClass("encoder/temporal_block_1/conv1d/kernel", _stcn_config, _needed_of_tcn),
    "TCN": _ModelClass("causal_conv_layer_0/conv1d/kernel", _wavenet_config, _needed_of_tcn),
    "VRNN": _ModelClass(f"{VRNN_SCOPE}/phi_x_input/dense/kernel", _vrnn_config, _needed_of_vrnn),
}


def _model_class(config: Options) -> _ModelClass:
    name = config.text("model_cls")
    if name not in _MODEL_CLASSES:
        raise ValueError(f"model_cls {name!r} is not supported; there are: {', '.join(_MODEL_CLASSES)}")
    return _MODEL_CLASSES[name]
