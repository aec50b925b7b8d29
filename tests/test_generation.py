"""One step at a time is the whole sequence, and what is generated feeds what comes next."""

import pyro
import pytest
import torch
from pyro import poutine

from pyro_stcn.generation import generate, reconstruct
from pyro_stcn.ladder import base_normal
from pyro_stcn.observation import BernoulliConfig, NormalConfig, PenStrokeConfig

from .small import CAUSAL, POINTWISE, small_stcn

pytestmark = pytest.mark.usefixtures("double")
quiet = {"progress": False}
OPTIONS = [
    (output, {"dense": dense, "independent_draws": independent})
    for output in (POINTWISE, CAUSAL)
    for dense in (True, False)
    for independent in (True, False)
]


def head(distribution):
    """The mixture inside, whether or not time is part of the event."""
    return distribution if hasattr(distribution, "logits") else distribution.base_dist


@pytest.mark.parametrize(("output", "options"), OPTIONS)
@torch.no_grad()
def test_steps_are_the_whole_sequence(output, options):
    """Every prior and every p(x_t | z, x_<t), given the same draws, over four receptive fields."""
    net = small_stcn(output, **options)
    x = torch.randn(3, 4 * net.backbone.receptive_field + 3, 4)
    whole = poutine.trace(net.model).get_trace(x).nodes
    sites = [name for name, site in whole.items() if name.startswith("z") and site["type"] == "sample"]
    assert set(net.latent_names) <= set(sites)
    observed = head(whole["x"]["fn"])
    state, previous = net.initial_state(3), torch.zeros(3, 4)
    for t in range(x.shape[1]):
        with poutine.trace() as stepped, poutine.condition(data={name: whole[name]["value"][:, t] for name in sites}):
            state, distribution = net.step(state, previous)
        previous = x[:, t]
        assert (distribution.batch_shape, distribution.event_shape) == ((3,), (4,))
        for name in sites:
            ours, theirs = base_normal(stepped.trace.nodes[name]["fn"]), base_normal(whole[name]["fn"])
            assert (ours.loc - theirs.loc[:, t]).abs().max() < 1e-10
            assert (ours.scale - theirs.scale[:, t]).abs().max() < 1e-10
        for parameter in ("logits", "loc", "scale"):
            assert (getattr(distribution, parameter) - getattr(observed, parameter)[:, t]).abs().max() < 1e-10


def watch(net, monkeypatch):
    """Record the features d_(t-1) that every step draws its latents from."""
    seen, draw = [], net._draw_latents

    def watched(past, as_site):
        seen.append(past)
        return draw(past, as_site)

    monkeypatch.setattr(net, "_draw_latents", watched)
    return seen


@pytest.mark.parametrize("steps_before", [0, 1, 13])
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@torch.no_grad()
def test_features_are_those_of_prefix_and_generated_steps_together(output, steps_before, monkeypatch):
    net = small_stcn(output)
    prefix = torch.randn(2, steps_before, 4) if steps_before else None
    seen = watch(net, monkeypatch)
    generated = generate(net, 9, 2, prefix=prefix, **quiet)
    assert generated.shape == (2, 9, 4)
    together = generated if prefix is None else torch.cat([prefix, generated], 1)
    seen = [past for past in seen if past[0].dim() == 2]  # steps, not the pass over the prefix
    assert len(seen) == 9
    for level, d in enumerate(net.features(together)):
        stepped = torch.stack([past[level] for past in seen], 1)
        assert (stepped - d[:, steps_before:-1]).abs().max() < 1e-12


def test_one_prefix_serves_all_sequences(monkeypatch):
    net = small_stcn()
    prefix = torch.randn(1, 6, 4)
    seen = watch(net, monkeypatch)
    assert generate(net, 4, 5, prefix=prefix, **quiet).shape == (5, 4, 4)
    # Equal rows of a matrix product can differ in the last digit.
    torch.testing.assert_close(seen[0][0], seen[0][0][:1].expand(5, -1), rtol=0, atol=1e-12)  # the same past
    assert not torch.equal(seen[1][0][0], seen[1][0][1]), "and different futures"


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_the_seed_is_all_the_noise(output):
    net = small_stcn(output)
    draws = []
    for seed in (3, 3, 4):
        pyro.set_rng_seed(seed)
        draws.append(generate(net, 7, 2, prefix=torch.ones(1, 3, 4), **quiet))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not draws[0].requires_grad


@torch.no_grad()
def test_samples_come_from_the_distribution_of_the_step():
    """Of many first steps, mean and covariance are those of the model's own p(x_1)."""
    net = small_stcn(observation=NormalConfig())
    x = generate(net, 1, 40_000, **quiet)[:, 0]
    _, p = net.step(net.initial_state(40_000), torch.zeros(40_000, 4))  # other draws of z
    mean, variance = p.mean.mean(0), p.variance.mean(0) + p.mean.var(0)
    assert ((x.mean(0) - mean).abs() < 4.5 * (2 * variance / 40_000).sqrt()).all()
    covariance = p.mean.T.cov() + p.variance.mean(0).diag()
    assert (x.T.cov() - covariance).abs().max() < 0.05 * variance.max()


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@torch.no_grad()
def test_sequences_do_not_see_their_batch_mates(output):
    net = small_stcn(output)
    z = {
        name: torch.randn(8, 3, dim) for name, dim in zip(net.latent_names, net.config.ladder.latent_dims, strict=True)
    }
    x = torch.randn(8, 3, 4)

    def run(rows):
        state = net.initial_state(len(rows))
        for t in range(8):
            with poutine.condition(data={name: value[t, rows] for name, value in z.items()}):
                state, distribution = net.step(state, x[t, rows])
        return distribution.loc

    together = run([0, 1, 2])
    for row in range(3):
        torch.testing.assert_close(run([row]), together[row : row + 1], rtol=1e-12, atol=1e-12)


def test_what_is_remembered_does_not_grow():
    net = small_stcn(CAUSAL)

    def size(state):
        tensors = [*state.backbone.buffers, *state.output.buffers]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    state = start = net.initial_state(2)
    with torch.no_grad():
        for _ in range(40):
            state, _ = net.step(state, torch.zeros(2, 4))
    assert size(state) == size(start)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_left_alone(training):
    net = small_stcn().train(training)
    generate(net, 2, **quiet)
    assert net.training == training


@pytest.mark.parametrize("observation", [BernoulliConfig(), PenStrokeConfig(NormalConfig())])
def test_bits_are_bits(observation):
    x = generate(small_stcn(observation=observation), 20, 3, **quiet)
    bits = x if isinstance(observation, BernoulliConfig) else x[..., -1]
    assert set(bits.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (torch.zeros(3, 4, 4), "the prefix has 3 sequences, 2 are to be generated"),
        (torch.zeros(2, 4, 5), r"\(batch, time, 4\)"),
        (torch.zeros(4, 4), r"\(batch, time, 4\)"),
        (torch.zeros(2, 0, 4), "at least one step"),
        (torch.full((2, 4, 4), torch.nan), "is nan at sequence 0, step 0, channel 0"),
    ],
)
def test_prefixes_that_are_refused(prefix, message):
    with pytest.raises(ValueError, match=message):
        generate(small_stcn(), 3, 2, prefix=prefix, **quiet)


@pytest.mark.parametrize("steps", [0, -1])
def test_at_least_one_step(steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, not {steps}"):
        generate(small_stcn(), steps, **quiet)


def test_a_prefix_takes_the_type_of_the_weights():
    assert generate(small_stcn(), 2, prefix=torch.ones(1, 3, 4, dtype=torch.float32), **quiet).dtype == torch.float64


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_reconstruction_is_the_mean_of_the_observation_at_a_draw_of_the_guide(output):
    net = small_stcn(output)
    x, mask = torch.randn(3, 8, 4), torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    pyro.set_rng_seed(5)
    reconstruction = reconstruct(net, x, mask)
    assert reconstruction.shape == x.shape
    assert not reconstruction.requires_grad
    pyro.set_rng_seed(5)
    z = net.guide(x, mask)
    mixture = net.observation(net.output(torch.cat([z["z2"], z["z1"]], -1)))
    torch.testing.assert_close(reconstruction, (mixture.logits.exp().unsqueeze(-1) * mixture.loc).sum(-2).detach())


@pytest.mark.parametrize("observation", [BernoulliConfig(), PenStrokeConfig(), NormalConfig()])
def test_reconstruction_of_other_observations(observation):
    x = (torch.rand(2, 5, 4) < 0.5).double()
    assert reconstruct(small_stcn(CAUSAL, observation=observation), x).shape == x.shape
