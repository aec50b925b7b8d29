"""The pass over a batch that model and guide share: what it keeps, what it computes anew, what it refuses."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_stcn.bounds import IWAE
from pyro_stcn.models import BiLSTMConfig, SRNNConfig, VRNNConfig, ZForcingConfig
from pyro_stcn.models.unroll import StepwiseNormal, Unroll
from pyro_stcn.posterior import from_pyro_svi

from ..small import FixedNoise

D, Z, WIDTH, T = 3, 2, 5, 6
SMALL = {
    "vrnn": VRNNConfig(D, Z, WIDTH, 1, 7, 7),
    "srnn": SRNNConfig(D, Z, WIDTH, 7),
    "zforcing": ZForcingConfig(D, Z, WIDTH, 4, 7),
    "bilstm": BiLSTMConfig(D, Z, WIDTH, 7),
}
systems = pytest.mark.parametrize("system", SMALL)
pytestmark = pytest.mark.usefixtures("double")


def build(system="vrnn"):
    net = SMALL[system].build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net.eval()


def ragged():
    return torch.randn(3, T, D), torch.arange(T) < torch.tensor([T, 4, 1])[:, None]


def latents(net):
    """Return a value for every latent."""
    return {name: torch.randn(3, T, Z if name == "z1" else WIDTH) for name in net.latent_names}


# --------------------------------------------------------------------------------------------------------------- memory


@systems
@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO(), IWAE(2, max_plate_nesting=1)])
def test_a_pass_is_freed_with_the_guides_trace(system, elbo):
    """And not when the garbage collector comes: on a GPU that can be many passes later."""
    net, data = build(system), ragged()
    elbo.loss_and_grads(net.model, net.guide, *data)  # what is made once and kept
    net.guide.release()
    gc.collect()
    gc.disable()
    try:
        elbo.loss_and_grads(net.model, net.guide, *data)
        alive = [weakref.ref(net.guide.get_traces()[0].nodes["z1"]["fn"].unroll)]
        alive += [weakref.ref(alive[0]().trajectory), weakref.ref(alive[0]().trajectory.z)]
        assert all(ref() is not None for ref in alive)
        net.guide.release()
        assert [ref() for ref in alive] == [None] * 3
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------------------------- conditioning


@systems
@pytest.mark.parametrize("nesting", [1, 2])
@pytest.mark.parametrize("bound", ["elbo", "iwae"])
def test_given_latents_particles_are_all_alike(system, nesting, bound):
    net, (x, mask) = build(system), ragged()
    values = latents(net)
    trace = poutine.trace(poutine.condition(net.model, values)).get_trace(x, mask)
    expected = -trace.log_prob_sum().item()
    options = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": nesting}
    elbo = IWAE(**options) if bound == "iwae" else Trace_ELBO(**options)
    with poutine.condition(data=values):
        for one in (Trace_ELBO(), elbo):
            assert one.loss(net.model, net.guide, x, mask) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("nesting", [1, 2])
def test_given_z1_the_imagined_states_are_still_drawn_for_every_particle(nesting):
    net, (x, mask) = build("bilstm"), ragged()
    z, noise = torch.randn(3, T, Z), torch.randn(4, 3, T, WIDTH)

    def loss(elbo, noise):
        with poutine.condition(data={"z1": z}), FixedNoise({"z2": noise}):
            return elbo.loss(net.model, net.guide, x, mask)

    each = torch.tensor([loss(Trace_ELBO(), e) for e in noise])
    assert each.std() > 0.01
    together = Trace_ELBO(4, nesting, vectorize_particles=True)
    noise = noise.reshape(4, *[1] * (nesting - 1), 3, T, WIDTH)
    assert loss(together, noise) == pytest.approx(each.mean().item(), rel=1e-12)


def test_other_latents_are_followed_anew():
    net, (x, mask) = build(), ragged()
    unroll, first, second = net.begin(x, mask), torch.randn(3, T, Z), torch.randn(3, T, Z)
    prior, posterior = (StepwiseNormal(unroll, c, torch.Size([3])) for c in (Unroll.prior, Unroll.posterior))
    kept = unroll.follow(first)
    moments = [prior.steps(first), posterior.steps(first)]
    assert unroll.follow(first) is kept, "the pass keeps its trajectory"
    other = unroll.follow(second)
    assert other is not kept
    assert other.z is second
    fresh = net.begin(x, mask)
    for ours, theirs in zip(other.after, fresh.follow(second).after, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(other.after.h, kept.after.h)
    for fn, old in zip((prior, posterior), moments, strict=True):
        ours, theirs = fn.steps(second), StepwiseNormal(fresh, fn.conditional, torch.Size([3])).steps(second)
        assert torch.equal(ours.loc, theirs.loc)
        assert torch.equal(ours.scale, theirs.scale)
        assert not torch.equal(ours.loc[:, 1:], old.loc[:, 1:])
        assert torch.equal(ours.loc[:, 0], old.loc[:, 0]), "nothing was drawn before the first step"


def test_a_draw_after_another_replaces_it():
    """Else the density of the second would be that of the first one's states."""
    net, (x, mask) = build(), ragged()
    posterior = StepwiseNormal(net.begin(x, mask), Unroll.posterior, torch.Size([3]))
    noise = torch.randn(2, 3, T, Z)
    for e in (noise[0], noise[1], noise[0]):
        z = posterior.rsample_from(e)
        each = posterior.steps(z)
        torch.testing.assert_close((z - each.loc) / each.scale, e)


# ------------------------------------------------------------------------------------------------------------------- KL


def test_the_kl_is_of_two_conditionals_of_one_pass_once_drawn():
    net, (x, mask) = build(), ragged()
    (q, p), (_, other) = (
        [StepwiseNormal(unroll, c, torch.Size([3])) for c in (Unroll.posterior, Unroll.prior)]
        for unroll in (net.begin(x, mask), net.begin(x, mask))
    )
    with pytest.raises(NotImplementedError, match="prior and posterior of one pass, once drawn"):
        kl_divergence(q, p)
    z = q.rsample()
    assert kl_divergence(q, p).shape == (3,)
    assert not kl_divergence(q, q).any()
    other.unroll.follow(z)
    with pytest.raises(NotImplementedError, match="prior and posterior of one pass"):
        kl_divergence(q, other)


# -------------------------------------------------------------------------------------------------------------- padding


def test_the_density_that_arviz_gets_does_not_count_the_noise_in_padding():
    net, (x, mask) = build("bilstm"), ragged()
    noise = {name: torch.randn(3, T, Z if name == "z1" else WIDTH) for name in net.latent_names}

    def statistics(x, mask, noise):
        with FixedNoise(noise):
            drawn = from_pyro_svi(net.model, net.guide, model_args=(x, mask), num_samples=2)
        return {name: torch.from_numpy(values.values[0, 0]) for name, values in drawn.sample_stats.data_vars.items()}

    ours = statistics(x, mask, noise)
    wide = {name: F.pad(e, (0, 0, 0, 5), value=0.7) for name, e in noise.items()}
    padded = statistics(F.pad(x, (0, 0, 0, 5), value=torch.nan), F.pad(mask, (0, 5)), wide)
    alone = [
        statistics(x[i : i + 1, :n], None, {name: e[i : i + 1, :n] for name, e in noise.items()})
        for i, n in enumerate((T, 4, 1))
    ]
    assert set(ours) == {"lp", "log_weight", "kl_z1", "kl_z2"}
    for name, values in ours.items():
        assert values.shape == (3,)
        torch.testing.assert_close(padded[name], values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), values, rtol=1e-12, atol=1e-12)
