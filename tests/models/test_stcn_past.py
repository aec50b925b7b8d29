"""An STCN whose output network sees the past, by an independent computation, step by step and in bounds and files.

What every system must do is in test_contract.py, which has these configurations, too.
"""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import Normal

from pyro_stcn.bounds import FIVO, IWAE
from pyro_stcn.checkpoint import load_model, save_model
from pyro_stcn.configs import config_from_dict, config_to_dict
from pyro_stcn.data import SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.lstm import StackedLSTMConfig
from pyro_stcn.models import Evidence, STCNConfig
from pyro_stcn.models.stcn import STCNFilter
from pyro_stcn.observation import CausalOutputConfig, NormalConfig, PointwiseOutputConfig
from pyro_stcn.presets import PRESETS
from pyro_stcn.tcn import DilatedTCNConfig
from pyro_stcn.training import TrainingConfig, fit

from ..linear_gaussian import DIM, SUMMARY, Echo, LinearPrior, VagueLikelihood
from ..small import FixedNoise, small_data

double = pytest.mark.usefixtures("double")
D, T = 4, 7
POINTWISE, CAUSAL = PointwiseOutputConfig(2, 8), CausalOutputConfig(2, 8)
BASE = STCNConfig(
    D, DilatedTCNConfig(((1,), (2,)), 8), LadderConfig((3, 2), 8, 1), observation=NormalConfig(), output_sees_past=True
)
CONFIGS = {
    "dense": replace(BASE, output=CAUSAL),
    "dense pointwise": replace(BASE, output=POINTWISE),
    "plain": replace(BASE, output=CAUSAL, dense=False),
    "plain pointwise": replace(BASE, output=POINTWISE, dense=False),
    "on LSTMs": replace(BASE, output=POINTWISE, backbone=StackedLSTMConfig((1, 1), 6)),
    "independent draws": replace(BASE, output=POINTWISE, independent_draws=True),
}
every = pytest.mark.parametrize("name", CONFIGS)
shared = pytest.mark.parametrize("name", [name for name in CONFIGS if name != "independent draws"])


def build(name, **options):
    pyro.set_rng_seed(4)
    net = replace(CONFIGS[name], **options).build()
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def draw(net, x, mask=None):
    """Return a draw of all latents from the prior."""
    nodes = poutine.trace(net.model).get_trace(x, mask).nodes
    return {name: site["value"].detach() for name, site in nodes.items() if name[0] == "z"}


def in_plain_torch(net, x, z):
    """log p(x_t | z, x_<t) of every step, ``(batch, time)``, from the weights and the words of the documentation."""
    d = net.backbone(torch.cat([torch.zeros(len(x), 1, D), x], 1))
    seen = [z["z2"], z["z1"]] if net.config.dense else [z["z1"]]
    h = torch.cat([*seen, d[-1][:, :-1]], -1)  # row t of d has seen x_1 to x_t
    if net.pointwise:
        for layer in net.output.layers:
            h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    else:
        h = net.output(h)
    loc, raw = (h @ part.weight.T + part.bias for part in (net.observation.loc, net.observation.scale))
    return Normal(loc, raw.exp().log1p().clamp(0.001, 50)).log_prob(x).sum(-1)


# ------------------------------------------------------------------------------------------------------ the likelihood


@double
@every
def test_the_likelihood_is_that_of_latents_and_the_highest_feature_of_the_step_before(name):
    net, x = build(name), torch.randn(3, T, D)
    z = draw(net, x)
    trace = poutine.trace(poutine.condition(net.model, z)).get_trace(x)
    by_hand = in_plain_torch(net, x, z)
    fn = trace.nodes["x"]["fn"]
    fn = fn if net.pointwise else fn.base_dist.to_event(1)
    torch.testing.assert_close(fn.log_prob(x), by_hand, rtol=1e-10, atol=1e-10)
    assert trace.log_prob_sum(lambda site, _: site == "x").item() == pytest.approx(by_hand.sum().item())


@double
@every
def test_particles_share_the_past(name):
    """Under a plate of particles every particle has the likelihood that it has alone."""
    net, x = build(name), torch.randn(3, T, D)
    with pyro.plate("particles", 5, dim=net.sequence_dim - 1):
        net.guide(x)
    nodes = net.guide.get_traces()[0].nodes
    likelihood = nodes["x"]["fn"].log_prob(x).reshape(5, 3, -1)
    assert likelihood.std(0).min() > 0
    for k in range(5):
        alone = in_plain_torch(net, x, {site: nodes[site]["value"].reshape(5, 3, T, -1)[k] for site in ("z1", "z2")})
        alone = alone if net.pointwise else alone.sum(-1, keepdim=True)
        torch.testing.assert_close(likelihood[k], alone, rtol=1e-10, atol=1e-10)


@double
@every
def test_x_depends_on_the_steps_before_and_on_no_other(name):
    """At given latents: without the option on none at all."""
    reach = {"dense": 6, "plain": 6, "on LSTMs": T}.get(name, 4)
    for option in (True, False):
        net, x = build(name, output_sees_past=option), torch.randn(1, T, D)
        z = draw(net, x)

        def each(x, net=net, z=z):
            fn = poutine.trace(poutine.condition(net.model, z)).get_trace(x).nodes["x"]["fn"]
            fn = fn if net.pointwise else fn.base_dist.to_event(1)
            return fn.log_prob(torch.linspace(-1, 1, D))[0]

        dependence = torch.autograd.functional.jacobian(each, x)[:, 0].abs().sum(-1) != 0
        lag = torch.arange(T)[:, None] - torch.arange(T)
        expected = (lag >= 1) & (lag <= reach) if option else torch.zeros(T, T, dtype=torch.bool)
        assert torch.equal(dependence, expected), f"output_sees_past={option}"


# ------------------------------------------------------------------------------------------------------------ streaming


@double
@every
@torch.no_grad()
def test_one_step_at_a_time_is_the_whole_pass(name):
    net, x = build(name), torch.randn(3, T, D)
    z = draw(net, x)
    whole = in_plain_torch(net, x, z)
    state, previous = net.initial_state(3), F.pad(x, (0, 0, 1, 0))
    for t in range(T):
        given = poutine.condition(net.step, {site: value[:, t] for site, value in z.items()})
        state, emission = given(state, previous[:, t])
        torch.testing.assert_close(emission.log_prob(x[:, t]), whole[:, t], rtol=1e-10, atol=1e-10)


@double
@shared
@torch.no_grad()
def test_what_is_generated_has_the_density_of_the_model(name):
    """Generate with a very narrow observation: the whole pass at the same latents foretells what came out."""
    net = build(name)
    net.observation.scale.weight.zero_()
    net.observation.scale.bias.fill_(-50.0)  # the scale is its least, 0.001
    drawn = {site: [] for site in net.latent_names}
    step = net.step

    def recording(state, x_previous):
        trace = poutine.trace(step).get_trace(state, x_previous)
        for site, values in drawn.items():
            values.append(trace.nodes[site]["value"])
        return trace.nodes["_RETURN"]["value"]

    net.step = recording
    x = generate(net, T, 2, progress=False)
    del net.step
    z = {site: torch.stack(values[:T], 1) for site, values in drawn.items()}
    fn = poutine.trace(poutine.condition(net.model, z)).get_trace(x).nodes["x"]["fn"]
    assert (fn.mean - x).abs().max() < 0.006
    assert x.std() > 0.1


# --------------------------------------------------------------------------------------------------------------- bounds


def ragged():
    mask = torch.arange(T) < torch.tensor([T, 5, 3])[:, None]
    mask[0, 2] = False
    return torch.where(mask.unsqueeze(-1), torch.randn(3, T, D), torch.full((), math.nan)), mask


def loss_and_gradient(elbo, net, *args):
    net.zero_grad()
    loss = elbo.loss_and_grads(net.model, net.guide, *args)
    return loss, torch.cat([p.grad.flatten() for p in net.parameters()])


@double
@pytest.mark.parametrize("stretch", [256, 3])
@pytest.mark.parametrize("particles", [1, 6])
@shared
def test_a_filter_that_never_resamples_is_iwae_and_with_one_particle_the_elbo(monkeypatch, name, particles, stretch):
    """On the same noise: value and gradient."""
    net, (x, mask) = build(name), ragged()
    monkeypatch.setattr(STCNFilter, "rows", stretch * particles * 3)
    pyro.set_rng_seed(5)
    # The filter draws a stretch of steps from the top of the ladder, all particles at once, and then the next stretch.
    stretches = [
        {site: torch.randn(particles, 3, min(stretch, T - t), dim) for site, dim in (("z2", 2), ("z1", 3))}
        for t in range(0, T, stretch)
    ]
    noise = {site: torch.cat([part[site] for part in stretches], 2) for site in ("z1", "z2")}
    pyro.set_rng_seed(5)
    loss, gradient = loss_and_gradient(FIVO(particles, threshold=0), net, x, mask)
    one = particles == 1
    with FixedNoise({site: e[0] if one else e for site, e in noise.items()}):
        elbo = Trace_ELBO() if one else IWAE(particles, max_plate_nesting=-net.sequence_dim)
        expected, exact = loss_and_gradient(elbo, net, x, mask)
    assert loss == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, exact, rtol=1e-8, atol=1e-10)


@shared
def test_the_filter_with_one_particle_has_the_mean_of_the_elbo(name):
    net, copies = build(name), 3000
    x = torch.randn(1, T, D).repeat(copies, 1, 1)
    with torch.no_grad():
        filtered = FIVO(1).log_evidence(net.model, net.guide, x)
        weights = IWAE(1).log_weights(net.model, net.guide, x)[0]
    error = math.hypot(filtered.std(), weights.std()) / math.sqrt(copies)
    assert abs(filtered.mean() - weights.mean()) < 4 * error
    assert filtered.std() > 0.1


@every
def test_evaluation(name):
    net, data = build(name), small_data(4)
    loose = name == "independent draws"
    assert net.evidence is (Evidence.ESTIMATE if loose else Evidence.LOWER_BOUND)
    report = evaluate(net, data, particles=20, filter=None if loose else FIVO(20), progress=False)
    assert (report.iwae_per_step is not None) == net.pointwise
    assert report.objective.mean() < report.iwae.mean()
    if loose:
        with pytest.raises(NotImplementedError, match="independent draws"):
            evaluate(net, data, particles=2, filter=FIVO(2), progress=False)
        return
    values, particles = report.filtered
    assert particles == 20
    assert report.objective.mean() < values.mean()
    assert np.isfinite(values).all()


class LinearHeadOfAll(torch.nn.Module):
    """N([z, d] W, scale): of the latents, and of the feature of the past through tanh."""

    def __init__(self, latents, features):
        super().__init__()
        self.latents = latents
        self.weight = torch.nn.Parameter(0.5 * torch.randn(latents, DIM))
        self.past = torch.nn.Parameter(torch.randn(features, DIM))
        self.scale = torch.nn.Parameter(torch.rand(DIM) + 1.0)

    def forward(self, h):
        mean = h[..., : self.latents] @ self.weight + h[..., self.latents :].tanh() @ self.past
        return torch.distributions.Independent(Normal(mean, self.scale.expand(mean.shape)), 1)


@double
@torch.no_grad()
def test_the_average_weight_is_the_evidence_in_closed_form():
    """x_t = W z_t + f(x_<t) + noise: given the past a Gaussian, and per step and per sequence the weights know it."""
    echo = Echo(1)
    config = STCNConfig(DIM, echo, LadderConfig((1,), 8, 1), True, PointwiseOutputConfig(0), NormalConfig())
    net = replace(config, output_sees_past=True).build()
    net.ladder[0].prior_net, net.ladder[0].likelihood_net = LinearPrior(1, 0), VagueLikelihood(1)
    net.observation = LinearHeadOfAll(1, DIM + 2 * SUMMARY)
    x = torch.randn(2, 4, DIM)
    d = net.features(x)[0][:, :-1]
    prior, head = net.ladder[0].prior_net, net.observation
    mean = prior.past_mean(d) @ head.weight + d.tanh() @ head.past
    covariance = head.weight.T @ head.weight * prior.scale**2 + head.scale.diag() ** 2
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    for keep, target in ((("sequences",), exact.sum(1)), (("sequences", "time"), exact)):
        ratio = (IWAE(40_000, keep=keep).log_weights(net.model, net.guide, x) - target).exp()
        error = ratio.std(0) / math.sqrt(len(ratio))
        assert error.max() < 0.05
        assert ((ratio.mean(0) - 1) / error).abs().max() < 4.5
    assert IWAE(1, keep=()).loss(net.model, net.guide, x) > -exact.sum().item()


# ------------------------------------------------------------------------------------------------------------- training


@every
def test_training_reaches_all_of_it_and_a_checkpoint_keeps_it(tmp_path, name):
    net = build(name)
    config = TrainingConfig(steps=4, batch_size=8, evaluate_every=2, kl_increment=0.5)
    before = net.output.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    result = fit(net, small_data(12), small_data(4), elbo=Trace_ELBO(), config=config, folder=tmp_path, progress=False)
    assert all((value != before[key]).any() for key, value in net.output.state_dict().items())
    again, _ = load_model(tmp_path / "last.safetensors")
    assert again.config == net.config
    assert again.config.output_sees_past
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters(), strict=True))
    assert load_model(result.best)[0].config.output_sees_past


@every
def test_the_configuration_survives_json_and_a_file(tmp_path, name):
    config = CONFIGS[name]
    written = config_to_dict(config)
    assert written["output_sees_past"] is True
    assert config_from_dict(json.loads(json.dumps(written))) == config
    net = build(name)
    save_model(tmp_path / "net.safetensors", net)
    again, _ = load_model(tmp_path / "net.safetensors")
    x, losses = torch.randn(3, T, D), []
    for model in (net, again.eval()):
        pyro.set_rng_seed(3)
        losses.append(Trace_ELBO().loss(model.model, model.guide, x))
    assert losses[0] == losses[1]


def test_a_configuration_that_was_written_before_the_option_has_it_off():
    written = config_to_dict(replace(BASE, output_sees_past=False))
    del written["output_sees_past"]
    assert config_from_dict(written) == replace(BASE, output_sees_past=False)


# ------------------------------------------------------------------------------------------------------- without it


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_it_widens_the_first_layer_of_the_output_network_alone(output, dense):
    without, with_it = (
        replace(BASE, output=output, dense=dense, output_sees_past=option).build().state_dict()
        for option in (False, True)
    )
    assert without.keys() == with_it.keys()
    wider = {key for key in without if without[key].shape != with_it[key].shape}
    assert wider
    latents = 5 if dense else 3
    for key in wider:
        assert key.startswith(("output.layers.0.", "output.tcn.blocks.0."))
        assert without[key].numel() * (latents + 8) == with_it[key].numel() * latents


#: names and shapes of the weights, digested, minus the ELBO, and the sum of all absolute weights, of the version before
#: the option (0b7ade8)
RECORDED = {
    ("pointwise", True): ("cbdaea90b36a85d9", 422.2847592041656, 426.6716040393128),
    ("pointwise", False): ("a1940a6674d0c6a1", 126.4160734798917, 420.19204904238023),
    ("causal", True): ("07fec333bc2059ac", 223.2653849616285, 530.2700260827011),
    ("causal", False): ("442d1bafa6551c74", 120.58243346039825, 518.0097663578218),
}


@double
@pytest.mark.parametrize(("output", "dense"), RECORDED)
def test_without_it_weights_and_numbers_are_what_they_were(output, dense):
    names, loss, weights = RECORDED[output, dense]
    pyro.set_rng_seed(7)
    network = {"pointwise": POINTWISE, "causal": CAUSAL}[output]
    net = STCNConfig(D, BASE.backbone, BASE.ladder, dense, network, NormalConfig()).build()
    listed = "\n".join(f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == names
    x = torch.sin(torch.arange(3 * T * D, dtype=torch.float64)).reshape(3, T, D)
    assert Trace_ELBO().loss(net.model, net.guide, x) == pytest.approx(loss, rel=1e-7)
    assert sum(p.abs().sum().item() for p in net.parameters()) == pytest.approx(weights, rel=1e-7)


def test_no_preset_has_it():
    configs = [row.model for row in PRESETS.values() if isinstance(row.model, STCNConfig)]
    assert configs
    assert not any(config.output_sees_past for config in configs)


@double
def test_what_is_masked_out_is_not_read_from_the_past():
    """A hole is to later steps a step of zeros, in the feature that the output sees, too."""
    net, (x, mask) = build("dense pointwise"), ragged()
    z = draw(net, x, mask)
    given = poutine.condition(net.model, z)
    masked = poutine.trace(given).get_trace(x, mask).nodes["x"]["fn"].base_dist
    clean = torch.where(mask.unsqueeze(-1), x, torch.zeros(()))
    torch.testing.assert_close(masked.log_prob(clean), in_plain_torch(net, clean, z))
    assert base_normal(masked).loc.isfinite().all()


def test_a_data_set_of_one_step():
    """Where there is no past the feature is that of a row of zeros."""
    net = build("dense")
    one = SequenceDataset((np.ones((1, D)),), ("one",))
    assert np.isfinite(evaluate(net, one, particles=3, filter=FIVO(3), progress=False).iwae).all()
