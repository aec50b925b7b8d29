"""Configurations survive JSON, and a file can name no class but ours."""

import dataclasses
import json

import pytest

from pyro_stcn.configs import CONFIGS, config_from_dict, config_to_dict
from pyro_stcn.models import MODELS, STCNConfig
from pyro_stcn.observation import BernoulliConfig, NormalConfig, PenStrokeConfig
from pyro_stcn.presets import PRESETS
from pyro_stcn.training import TrainingConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    preset = PRESETS[name]
    assert config_from_dict(json.loads(json.dumps(config_to_dict(preset.model)))) == preset.model
    training = json.loads(json.dumps(dataclasses.asdict(preset.training)))  # as a checkpoint keeps it
    assert TrainingConfig(**training) == preset.training


@pytest.mark.parametrize("config", [BernoulliConfig(), PenStrokeConfig(NormalConfig(), 1e-5), STCNConfig(dense=False)])
def test_other_configurations_survive_json(config):
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_every_model_is_listed():
    assert set(MODELS.values()) <= set(CONFIGS.values())
    assert all(name == cls.__name__ for name, cls in CONFIGS.items())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "Popen", "args": ["touch", "x"]}, "unknown configuration type 'Popen'"),
        ({"type": "os.system"}, "unknown configuration type"),
        ({"type": None}, "unknown configuration type None"),
        ({"type": ["STCNConfig"]}, "unknown configuration type"),
        ({"data_dim": 4}, "unknown configuration type None"),
        ({"type": "STCNConfig", "colour": "red"}, "STCNConfig:.*'colour'"),
        ({"type": "STCNConfig", "backbone": {"type": "Popen"}}, "unknown configuration type 'Popen'"),
        ({"type": "STCNConfig", "__class__": "x"}, "STCNConfig:.*'__class__'"),
        ({"type": "DilatedTCNConfig", "dilations": 3}, "DilatedTCNConfig"),
        ({"type": "LadderConfig", "latent_dims": ["a"]}, "LadderConfig"),
    ],
)
def test_what_a_file_may_not_say(value, message):
    with pytest.raises(ValueError, match=message):
        config_from_dict(json.loads(json.dumps(value)))


@dataclasses.dataclass(frozen=True)
class OwnBackbone:
    width: int = 8


class PlainBackbone:
    pass


Impostor = dataclasses.make_dataclass("STCNConfig", ["data_dim"], frozen=True)


@pytest.mark.parametrize(
    "config",
    [
        OwnBackbone(),
        STCNConfig(backbone=OwnBackbone()),
        STCNConfig(backbone=PlainBackbone()),
        Impostor(4),
        TrainingConfig(),
    ],
)
def test_foreign_classes_are_refused(config):
    with pytest.raises(TypeError, match="is not one of this library's configurations"):
        config_to_dict(config)
