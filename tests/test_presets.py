"""Every row of the tables builds, and is as large as the authors'."""

import pytest
import torch

from pyro_stcn.models import Evidence
from pyro_stcn.observation import CausalOutput, PenStrokeConfig
from pyro_stcn.presets import PRESETS, preset

STCNS = [name for name in PRESETS if "/stcn" in name]


def shape_of(name):
    """Build a preset without memory for its weights."""
    with torch.device("meta"):
        return PRESETS[name].model.build()


@pytest.mark.parametrize(
    ("name", "count", "field"),
    [("timit/stcn-dense-gmm", 15_669_012, 156), ("iamondb/stcn-dense-gmm", 12_626_781, 316)],
)
def test_sizes_of_the_authors_models(name, count, field):
    net = preset(name).model.build()
    assert sum(p.numel() for p in net.parameters()) == count
    assert net.backbone.receptive_field == field


@pytest.mark.parametrize("name", STCNS)
def test_every_preset_builds_and_says_what_it_reports(name):
    net, config = shape_of(name), PRESETS[name].model
    corpus, system = name.split("/")
    speech, dense, mixture, published = (
        corpus in ("timit", "blizzard"),
        "dense" in system,
        "gmm" in system,
        "published" in system,
    )
    assert net.data_dim == (200 if speech else 3)
    assert net.pointwise != speech
    assert isinstance(net.output, CausalOutput) == speech
    assert (config.dense, config.independent_draws) == (dense, published)
    floored = published and (mixture or isinstance(config.observation, PenStrokeConfig))
    assert config.observation.normalised != floored
    loose = published and dense
    assert net.evidence is (Evidence.ESTIMATE if loose or floored else Evidence.LOWER_BOUND)


def test_the_names():
    rows = [name for name in STCNS if not name.endswith(("-small", "-published"))]
    systems = {"stcn-normal", "stcn-gmm", "stcn-dense-normal", "stcn-dense-gmm"}
    speech = systems | {"stcn-dense-large-normal", "stcn-dense-large-gmm"}
    expected = {f"{c}/{s}" for c in ("timit", "blizzard") for s in speech}
    expected |= {f"{c}/{s}" for c in ("iamondb", "deepwriting") for s in systems}
    assert set(rows) == expected
    assert {f"{name}-published" for name in rows} <= set(PRESETS)


@pytest.mark.parametrize(
    ("name", "batch", "rate", "decay", "mean_over_steps", "evaluate_every"),
    [
        ("timit/stcn-dense-gmm", 20, 1e-3, 0.98, False, 1000),
        ("blizzard/stcn-gmm", 128, 1e-3, 0.98, False, 2000),
        ("iamondb/stcn-dense-gmm", 20, 5e-4, 0.92, True, 500),
        ("deepwriting/stcn-normal-published", 20, 5e-4, 0.92, True, 500),
    ],
)
def test_training_is_that_of_the_authors_code(name, batch, rate, decay, mean_over_steps, evaluate_every):
    c = preset(name).training
    assert (c.batch_size, c.learning_rate, c.decay_rate, c.decay_steps) == (batch, rate, decay, 1000)
    assert (c.mean_over_steps, c.evaluate_every, c.clip_norm, c.kl_increment) == (
        mean_over_steps,
        evaluate_every,
        1.0,
        1e-4,
    )
    assert c.tensorflow_epsilon == name.endswith("-published")


def test_an_unknown_name_lists_those_that_come_closest():
    with pytest.raises(ValueError, match="no preset 'timit/lstm'; there are: timit/stcn") as caught:
        preset("timit/lstm")
    assert "iamondb" not in str(caught.value)
    with pytest.raises(ValueError, match="blizzard.*iamondb.*timit"):
        preset("stcn")
