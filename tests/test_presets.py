"""Every row of the tables builds, at its size."""

import math

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.configs import config_from_dict, config_to_dict
from pyro_stcn.data import StepKind
from pyro_stcn.models import MODELS, Evidence
from pyro_stcn.observation import CausalOutput, PenStrokeConfig
from pyro_stcn.presets import PRESETS, preset, systems
from pyro_stcn.presets.fitted import fitted

STCNS = [name for name in PRESETS if "/stcn" in name]
SMALL = [name for name in PRESETS if name.endswith("-small")]


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
def test_every_stcn_builds_and_says_what_it_reports(name):
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


def test_there_is_a_preset_for_every_figure_the_paper_prints():
    speech, ink = ("timit", "blizzard"), ("iamondb", "deepwriting")
    both = ("normal", "gmm")
    # Tables 1 and 4: rows, and the corpora for which they have a figure
    rows = {
        f"{s}-{k}": speech + ink
        for s in ("wavenet", "wavenet-dense", "rnn", "vrnn", "stcn", "stcn-dense")
        for k in both
    }
    rows |= {f"{s}-normal": speech for s in ("srnn", "zforcing", "bilstm")}
    rows |= {"swavenet-normal": (*speech, "iamondb"), "stcn-dense-large-gmm": speech}
    # Table 3
    rows |= {
        f"{size}-ladderrnn{dense}-{k}": ("timit", "iamondb")
        for size in ("25x256", "5x512")
        for dense in ("", "-dense")
        for k in both
    }
    expected = {f"{corpus}/{row}" for row, corpora in rows.items() for corpus in corpora}
    named = {name for name in PRESETS if not name.endswith(("-small", "-published"))}
    assert expected <= named
    assert named - expected == {"timit/stcn-dense-large-normal", "blizzard/stcn-dense-large-normal"}
    assert {f"{name}-published" for name in STCNS if not name.endswith(("-small", "-published"))} <= set(PRESETS)


def test_every_preset_builds_for_its_corpus_and_survives_json():
    for name, row in PRESETS.items():
        net = shape_of(name)
        assert net.data_dim == (200 if name.startswith(("timit", "blizzard")) else 3), name
        assert config_from_dict(config_to_dict(row.model)) == row.model, name
        assert row.source, name


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # by hand from the equations: LSTM 4 w (in + w) + 8 w with torch's two biases, linear (in + 1) out
        (
            "iamondb/rnn-normal",
            (3 + 1) * 340 + 4 * 1200 * (340 + 1200) + 8 * 1200 + (1200 + 1) * 340 + (340 + 1) * (2 * 2 + 1),
        ),
        (
            "iamondb/vrnn-normal",
            (3 + 1) * 250  # phi_x
            + (50 + 1) * 150  # phi_z
            + (1200 + 1) * 150
            + 2 * (150 + 1) * 50  # prior
            + (250 + 1200 + 1) * 150
            + 2 * (150 + 1) * 50  # posterior
            + (150 + 1200 + 1) * 250  # before the observation
            + 4 * 1200 * (250 + 150 + 1200)
            + 8 * 1200
            + (250 + 1) * (2 * 2 + 1),
        ),
        (
            "timit/zforcing-normal",
            (200 + 1) * 512
            + (256 + 1) * 512  # E and G
            + 4 * 1024 * (512 + 1024)
            + 8 * 1024  # backward
            + 4 * 1024 * (1024 + 1024)
            + 8 * 1024  # forward
            + (1024 + 1) * 512
            + 2 * (512 + 1) * 256  # prior
            + (2048 + 1) * 512
            + 2 * (512 + 1) * 256  # posterior
            + (1024 + 256 + 1) * 512
            + 2 * (512 + 1) * 1024  # auxiliary
            + 2 * (1024 + 1) * 200,
        ),
    ],
)
def test_sizes_of_the_recurrent_systems(name, count):
    assert sum(p.numel() for p in shape_of(name).parameters()) == count


def test_every_system_has_small_presets_that_train():
    names = systems()
    assert {PRESETS[f"timit/{name}-gmm-small"].model.__class__ for name in names} == set(MODELS.values())
    assert len(SMALL) == 4 * len(names)
    budgets = {name: (PRESETS[name].training.steps, PRESETS[name].training.batch_size) for name in SMALL}
    assert len(set(budgets.values())) == 1
    for name in SMALL:
        net = PRESETS[name].model.build()
        x = torch.randn(2, 4, net.data_dim)
        x[..., -1] = (x[..., -1] > 0).float()  # the pen
        assert math.isfinite(TraceMeanField_ELBO().loss_and_grads(net.model, net.guide, x)), name


@pytest.mark.parametrize(
    ("name", "batch", "rate", "decay", "mean_over_steps", "evaluate_every"),
    [
        ("timit/stcn-dense-gmm", 20, 1e-3, 0.98, False, 1000),
        ("blizzard/stcn-gmm", 128, 1e-3, 0.98, False, 2000),
        ("iamondb/stcn-dense-gmm", 20, 5e-4, 0.92, True, 500),
        ("deepwriting/stcn-normal-published", 20, 5e-4, 0.92, True, 500),
        ("timit/5x512-ladderrnn-dense-gmm", 20, 1e-3, 0.98, False, 1000),
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


def test_every_recipe_ends_with_the_whole_kl():
    for name, row in PRESETS.items():
        assert row.training.kl_weight(row.training.steps) == 1, name


def test_an_unknown_name_lists_those_that_come_closest():
    with pytest.raises(ValueError, match="no preset 'timit/svi'; there are: timit/25x256") as caught:
        preset("timit/svi")
    assert "iamondb" not in str(caught.value)
    with pytest.raises(ValueError, match="there are: timit/vrnn-gmm,"):
        preset("timit/vrnn-gmmm")
    with pytest.raises(ValueError, match="blizzard.*iamondb.*timit"):
        preset("nothing like it")


@pytest.mark.parametrize("system", systems())
def test_every_small_system_is_made_to_fit_data_of_any_kind(system):
    heads = {StepKind.STROKES: "PenStroke", StepKind.ROLL: "Bernoulli", StepKind.CATEGORIES: "Categorical"}
    for kind in StepKind:
        width = {StepKind.AUDIO: 160, StepKind.STROKES: 3}.get(kind, 7)
        name, chosen = fitted(system, kind, width, "normal")
        discrete = kind in (StepKind.ROLL, StepKind.CATEGORIES)
        assert name == (f"{system}-small" if discrete else f"{system}-normal-small")
        net = chosen.model.build()
        assert net.data_dim == width
        assert type(net.config.observation).__name__ == f"{heads.get(kind, 'Normal')}Config"
    assert fitted(system, StepKind.AUDIO, 200)[1].model == preset(f"timit/{system}-gmm-small").model
    assert fitted(system, StepKind.STROKES, 3)[1].model == preset(f"iamondb/{system}-gmm-small").model


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="there is no system 'vrn'; there are: vrnn"):
        fitted("vrn", StepKind.REAL, 3)
    with pytest.raises(ValueError, match="there is no observation model 'flow'; there are: gmm, normal"):
        fitted("vrnn", StepKind.REAL, 3, "flow")
