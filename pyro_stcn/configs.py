"""Configurations as JSON and back. A file can name only the classes listed here: reading one builds nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

from .discretised import DiscretisedMixtureConfig
from .ladder import LadderConfig
from .lstm import StackedLSTMConfig
from .models import MODELS
from .observation import (
    BernoulliConfig,
    CategoricalConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from .tcn import DilatedTCNConfig

__all__ = ["CONFIGS", "config_from_dict", "config_to_dict"]

#: class name -> configuration class
CONFIGS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *MODELS.values(),
        BernoulliConfig,
        CategoricalConfig,
        CausalOutputConfig,
        DilatedTCNConfig,
        DiscretisedMixtureConfig,
        GaussianMixtureConfig,
        LadderConfig,
        NormalConfig,
        PenStrokeConfig,
        PointwiseOutputConfig,
        StackedLSTMConfig,
    )
}


def config_to_dict(config: Any) -> Any:
    """Return a configuration as JSON-able values, each dataclass with its name under "type".

    :raises TypeError: for a configuration class that is not in :data:`CONFIGS`, such as that of your own backbone:
        its models can be trained and used, but their checkpoint has to be loaded into a model that you build yourself.
    """
    cls = type(config)
    if dataclasses.is_dataclass(config) and CONFIGS.get(cls.__name__) is cls:
        fields = {f.name: config_to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": cls.__name__, **fields}
    if isinstance(config, (tuple, list)):
        return [config_to_dict(item) for item in config]
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"{cls.__module__}.{cls.__qualname__} is not one of this library's configurations")


def config_from_dict(value: Any) -> Any:
    """Return the configuration that :func:`config_to_dict` wrote.

    :raises ValueError: for an unknown type or field.
    """
    if isinstance(value, dict):
        fields = {key: config_from_dict(item) for key, item in value.items() if key != "type"}
        name = value.get("type")
        if not isinstance(name, str) or name not in CONFIGS:
            raise ValueError(f"unknown configuration type {name!r}")
        try:
            return CONFIGS[name](**fields)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
    if isinstance(value, list):
        return tuple(config_from_dict(item) for item in value)
    return value
