"""Released models: what is refused, by name and without taking memory, and the twin whose figures are bounds."""

import copy

import numpy as np
import pytest
import torch

from pyro_stcn.data import SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.models import STCN, Evidence
from pyro_stcn.observation import PenStrokeConfig
from pyro_stcn.published import load_published, published_config, published_weights, valid_twin

from .recorded import CASES, config_of, weights_of

WRONG = (None, "x", -1, 10**12, 2.5, [], {}, [0], True)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def net(case):
    return load_published(config_of(case), weights_of(case))


def places(config, path=()):
    """Every place in nested options."""
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(config, path, value=None, *, remove=False):
    config = copy.deepcopy(config)
    section = config
    for key in path[:-1]:
        section = section[key]
    if remove:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    return config


def test_a_missing_option_is_named_or_has_a_default(case, net):
    config, errors = config_of(case), {}
    assert published_config(config, net.data_dim) == net.config
    for path in places(config):
        try:
            published_config(changed(config, path, remove=True), net.data_dim)
        except ValueError as error:
            errors[".".join(path)] = str(error)
    assert {"model_cls", "loss"} < errors.keys()
    assert "learning_rate" not in errors
    # A loss that is gone leaves losses that make no likelihood.
    unnamed = {name: error for name, error in errors.items() if name not in error and "the losses" not in error}
    assert not unnamed


def test_a_wrong_option_is_refused_and_nothing_else_happens(case, net):
    config, refused = config_of(case), 0
    for path in places(config):
        for value in WRONG:
            try:
                published_config(changed(config, path, value), net.data_dim)
            except ValueError:
                refused += 1
    assert refused > 100


def test_a_size_that_the_weights_do_not_have_takes_no_memory():
    config = config_of("speech_dense_gmm")
    config["cnn_layer"]["num_filters"] = config["latent_layer"]["num_hidden_units"] = 2**16
    with pytest.raises(ValueError, match="in the file and .* in the config"):
        load_published(config, weights_of("speech_dense_gmm"))


def test_every_missing_variable_is_named(case, net):
    weights = weights_of(case)
    for name in weights:
        with pytest.raises(ValueError, match="missing variables: ") as caught:
            published_weights(net, {k: v for k, v in weights.items() if k != name})
        assert str(caught.value) == f"missing variables: {name}"
    gone = [name for name in weights if name.endswith("bias")]
    with pytest.raises(ValueError, match="missing variables: ") as caught:
        published_weights(net, {k: v for k, v in weights.items() if k not in gone})
    assert f"and {len(gone) - 6} more" in str(caught.value)
    assert sum(name in str(caught.value) for name in gone) == 6


def test_every_unknown_variable_is_named(case, net):
    with pytest.raises(ValueError, match="1 variables belong to no part of this model, the first 'other/kernel'"):
        published_weights(net, {**weights_of(case), "other/kernel": np.zeros((1, 2, 3), "f4")})


MISSHAPEN = [
    lambda a: a[None],
    lambda a: a[0],
    lambda a: a[..., :-1],
    lambda a: np.concatenate([a, a], axis=0),
    lambda a: a.astype("i4"),
    lambda a: a.astype("c8"),
    lambda a: np.full_like(a, np.nan),
    lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.inf, a),
    lambda a: a.astype("U8"),
]


def test_every_misshapen_variable_is_refused(case, net):
    weights = weights_of(case)
    for variable, array in weights.items():
        for misshape in MISSHAPEN:
            with pytest.raises(ValueError, match="has shape|in the file|taps|differ in shape|not finite"):
                published_weights(net, {**weights, variable: misshape(array)})


def test_a_first_variable_that_says_no_width_is_refused():
    weights = weights_of("wavenet_gmm")
    name = "causal_conv_layer_0/conv1d/kernel"
    with pytest.raises(ValueError, match=f"{name}. has shape .*, and is no kernel"):
        load_published(config_of("wavenet_gmm"), {**weights, name: weights[name][0, 0]})


def test_transposed_and_exchanged_variables_are_refused():
    config, weights = config_of("speech_dense_gmm"), weights_of("speech_dense_gmm")
    name = "encoder/temporal_block_1/conv1d/kernel"
    with pytest.raises(ValueError, match="has shape .2, 8, 4. and .* of the length of the last"):
        load_published(config, {**weights, name: weights[name].transpose(0, 2, 1)})
    wide = weights["latent/p_1_mu/conv1d/kernel"]
    with pytest.raises(ValueError, match="in the file and .* in the config"):
        load_published(config, {**weights, "latent/p_1_mu/conv1d/kernel": wide[:, :-1]})
    with pytest.raises(ValueError, match="is in the file or in the config, and not in both"):
        load_published(config, {**weights, "latent/p_3_mu/conv1d/kernel": wide})  # the top layer has none above it


def test_the_twin_has_the_same_weights_and_says_what_is_true(net):
    twin = valid_twin(net)
    assert twin.evidence in (Evidence.LOWER_BOUND, Evidence.EXACT)
    assert (twin.evidence is Evidence.EXACT) == (not net.latent_names)
    ours, theirs = net.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(a is not b for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    if isinstance(net, STCN):
        assert not twin.config.independent_draws
        assert twin.config.ladder.merge == "eq11"
    assert twin.config.observation.normalised
    if isinstance(net.config.observation, PenStrokeConfig):
        assert not net.config.observation.normalised
        assert net.evidence is Evidence.ESTIMATE


def test_the_twin_keeps_the_dtype():
    net = load_published(config_of("ink_dense_gmm"), weights_of("ink_dense_gmm")).double()
    assert {p.dtype for p in valid_twin(net).parameters()} == {torch.float64}


def test_twins_without_latents_differ_by_what_the_floor_adds():
    net = load_published(config_of("wavenet_gmm"), weights_of("wavenet_gmm"))
    with torch.no_grad():
        net.observation.logits.bias[0] = -50.0  # a weight far below the floor
    rng = np.random.default_rng(0)
    data = SequenceDataset(tuple(rng.normal(size=(9, 4)).astype("f4") for _ in range(3)))
    published, valid = (evaluate(model, data, particles=1, progress=False) for model in (net, valid_twin(net)))
    assert published.evidence is Evidence.ESTIMATE
    assert (published.log_likelihood > valid.log_likelihood).all()  # probability from nowhere
