"""Every system inside larger Pyro and torch programs: conditioned latents, scopes, autocast."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

from pyro_stcn.bounds import IWAE
from pyro_stcn.data import SequenceDataset
from pyro_stcn.tcn import DilatedTCN
from pyro_stcn.training import TrainingConfig, fit

from .test_contract import D, T, batch, build, draw, latent_systems, systems


@latent_systems
def test_a_latent_may_be_conditioned_on_with_many_particles(system):
    """Of the others there are particles, of the one that is given there are none."""
    net, (x, mask) = build(system), batch()
    for name, value in draw(net, x).items():
        with poutine.condition(data={name: value}):
            for elbo in (Trace_ELBO(num_particles=3, vectorize_particles=True), IWAE(3)):
                assert math.isfinite(elbo.loss(net.model, net.guide, x, mask)), name


@pytest.mark.parametrize("parallel", [False, True])
@latent_systems
def test_data_can_be_drawn_given_a_latent(system, parallel):
    net, (x, mask) = build(system), batch()
    for name, value in draw(net, x).items():
        given = poutine.condition(poutine.uncondition(net.model), data={name: value})
        drawn = Predictive(given, num_samples=4, parallel=parallel, return_sites=("x",))(x, mask)["x"]
        assert drawn.shape == (4, 3, T, D)
        assert (drawn.std(0) > 0).all()


@latent_systems
def test_two_models_in_one_program(system):
    """By Pyro's scopes: the pair of pairs has the densities that each has alone with these draws."""
    nets, (x, mask) = {"first": build(system), "second": build(system)}, batch()
    with torch.no_grad():
        for parameter in nets["second"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def both(side):
        def program(x, mask):
            for name, net in nets.items():
                scope(getattr(net, side), prefix=name)(x, mask)

        return program

    drawn = poutine.trace(both("guide")).get_trace(x, mask)
    together = poutine.trace(poutine.replay(both("model"), drawn)).get_trace(x, mask)
    alone = 0.0
    for name, net in nets.items():
        draws = {latent: together.nodes[f"{name}/{latent}"]["value"] for latent in net.latent_names}
        alone += poutine.trace(poutine.condition(net.model, draws)).get_trace(x, mask).log_prob_sum().item()
    assert together.log_prob_sum().item() == pytest.approx(alone, rel=1e-5)


@systems
def test_autocast_around_a_step_of_svi(system):
    net, (x, mask) = build(system).train(), batch()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    pyro.set_rng_seed(0)
    exact = svi.evaluate_loss(x, mask)
    pyro.set_rng_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = svi.step(x, mask)
    assert math.isfinite(rough)
    assert rough != exact
    if not net.latent_names:  # else other noise is drawn
        assert rough == pytest.approx(exact, rel=0.05)
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


@pytest.mark.parametrize("system", ["stcn", "wavenet", "wavenet dense"])
def test_bfloat16_blocks_are_in_bfloat16_and_only_in_training(system, tmp_path):
    net, types = build(system), set()
    tcns = [module for module in net.modules() if isinstance(module, DilatedTCN)]
    for block in [module for tcn in tcns for module in tcn.modules() if isinstance(module, nn.Conv1d)]:
        block.register_forward_hook(lambda block, _, out: types.add((block.training, out.dtype)))
    data = SequenceDataset(tuple(torch.randn(4, T, D).numpy()))
    config = TrainingConfig(steps=2, evaluate_every=1, bfloat16_blocks=True)
    fit(net, data, data, elbo=Trace_ELBO(), config=config, folder=tmp_path, progress=False)
    assert types == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.randn(2, 5, D, dtype=torch.float64), "not torch.float64"),
        (torch.ones(2, 5, D, dtype=torch.int64), "not torch.int64"),
        (torch.randn(2, 5, D).numpy(), "not ndarray"),
    ],
)
def test_data_of_another_type_are_refused_with_the_way_out(x, said):
    net = build("stcn")
    with pytest.raises(ValueError, match=said):
        net.guide(x)


def test_it_is_a_part_of_a_larger_model():
    """A latent of the user's own outside, which shifts the data."""
    net, (x, mask) = build("stcn"), batch()

    def model(x, mask):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        return net.model(x - shift, mask)

    trace = poutine.trace(model).get_trace(x, mask)
    assert {"shift", *net.latent_names, "x"} <= set(trace.nodes)
    assert math.isfinite(trace.log_prob_sum().item())


def test_mean_over_steps_is_over_the_steps_that_are_scored(tmp_path):
    """Where x_1 is given, two steps have one that is scored, and its mean is its sum."""
    data = SequenceDataset(tuple(torch.randn(4, 2, D).numpy()))
    losses = []
    for mean in (True, False):
        net = build("wavenet given x1")
        config = TrainingConfig(steps=1, batch_size=4, mean_over_steps=mean)
        fit(net, data, elbo=Trace_ELBO(), config=config, folder=tmp_path / str(mean), progress=False)
        row = (tmp_path / str(mean) / "train.csv").read_text().splitlines()[1]
        losses.append(float(row.split(",")[1]))
    assert losses[0] == pytest.approx(losses[1])
