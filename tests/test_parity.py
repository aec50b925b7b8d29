"""Every number that was recorded from the authors' code, from the same weights and the same noise.

The fixtures whose names begin with ``reference_`` are other configurations of that code (plain STCN, Normal heads,
causal output for handwriting), computed by an independent implementation in float64 NumPy that agrees with the
recorded ones; they hold the forward pass and the losses, not gradients.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_stcn.ladder import base_normal
from pyro_stcn.published import load_published, published_config, published_weights
from pyro_stcn.schedules import adam_epsilon_hat, exponential_decay, kl_weight

from .small import FixedNoise

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(path.stem for path in FIXTURES.glob("*.npz") if "wavenet" not in path.stem)
RECORDED = [name for name in CASES if not name.startswith("reference_")]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Case:
    """A recorded case and the model with its weights, in float64: the recordings are float32, the model need not be."""

    def __init__(self, name):
        self.config = json.loads((FIXTURES / f"{name}.json").read_text())
        with np.load(FIXTURES / f"{name}.npz") as file:
            self.arrays = {key: file[key].astype(np.float64) for key in file.files}
        self.net = load_published(self.config, self.group("w/")).double()
        self.net.load_state_dict(published_weights(self.net, self.group("w/")))
        self.x = torch.from_numpy(self.arrays["x"])
        self.lengths = torch.from_numpy(self.arrays["lengths"]).long()
        self.mask = torch.arange(self.x.shape[1]) < self.lengths[:, None]

    def group(self, prefix):
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def draws(self, mode):
        """Our site -> recorded draw: A feeds the decoder, B the layer below, C its guide, F a decoder of z1 alone."""
        shared, dense = not self.net.config.independent_draws, self.net.config.dense
        recorded = set(self.group(f"{mode}/eps/"))
        sites = {"z1": "A1" if dense else "F1"}
        for level in range(2, len(self.net.ladder) + 1):
            sites[f"z{level}"] = f"A{level}" if shared or dense else f"B{level}"
            if not shared:
                sites[f"z{level}_below"] = f"B{level}"
                # Without a guide there is no C, and the site's value is never read.
                sites[f"z{level}_guide"] = f"C{level}" if f"C{level}" in recorded else f"B{level}"
        return sites

    def noise(self, mode):
        """Recorded noise by our site names."""
        eps = self.group(f"{mode}/eps/")
        return {site: torch.from_numpy(eps[key]) for site, key in self.draws(mode).items()}


@pytest.fixture(params=CASES)
def case(request):
    return Case(request.param)


def close(ours, theirs, what):
    torch.testing.assert_close(
        ours.detach().double(),
        torch.as_tensor(theirs).double(),
        **CLOSE,
        msg=lambda m: f"{what}: {m}",
    )


def latents_of(case, level, trace):
    """What the layer ``level`` sees from above: (by its prior, by its likelihood network)."""
    if level == len(case.net.ladder):
        return None, None
    name = case.net.latent_names[level]
    value = {k: trace.nodes[k]["value"] for k in trace.nodes}
    return value.get(f"{name}_below", value[name]), value.get(f"{name}_guide", value[name])


def check_heads(case, mode, trace):
    net, x = case.net, trace.nodes["x"]["fn"]
    while hasattr(x, "base_dist") and not hasattr(x, "stroke") and not hasattr(x, "logits"):
        if type(x).__name__ == "Normal":
            break
        x = x.base_dist
    recorded = case.group(f"{mode}/head/")
    if hasattr(x, "stroke"):
        close(torch.sigmoid(x.pen_logits).unsqueeze(-1), recorded.pop("out_binary"), "pen")
        x = x.stroke
    x = base_normal(x) if not hasattr(x, "logits") else x
    if "out_coefficient" in recorded:
        close(x.logits.exp(), recorded.pop("out_coefficient"), "mixture weights")
        loc, scale = x.loc.transpose(-1, -2).flatten(-2), x.scale.transpose(-1, -2).flatten(-2)
    else:
        loc, scale = x.loc, x.scale
    close(loc, recorded.pop("out_mu"), "head mean")
    close(scale, recorded.pop("out_sigma"), "head scale")
    assert not recorded, f"recorded and not compared: {sorted(recorded)}"
    assert net.data_dim == case.x.shape[-1]


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_forward_and_losses(case, mode):
    net = case.net
    weight = case.arrays[f"{mode}/kld_weight"].item()
    with FixedNoise(case.noise(mode)):
        net.guide(case.x, None, weight)  # padded rows were recorded like all others
    model_trace, guide_trace = net.guide.get_traces()

    h = torch.nn.functional.pad(case.x, (0, 0, 1, 0)).transpose(1, 2)
    for i, block in enumerate(net.backbone.blocks):
        h, _ = block(h)
        close(h.transpose(1, 2), case.arrays[f"{mode}/encoder/h{i + 1}"], f"block {i + 1}")

    features = net.features(case.x)
    kls = {}
    for level, name in enumerate(net.latent_names, start=1):
        prior, posterior = (base_normal(t.nodes[name]["fn"]) for t in (model_trace, guide_trace))
        for ours, theirs in ((prior, "p"), (posterior, "q")):
            close(ours.loc, case.arrays[f"{mode}/{theirs}{level}/mu"], f"{theirs}{level} mean")
            close(ours.scale, case.arrays[f"{mode}/{theirs}{level}/sigma"], f"{theirs}{level} scale")
        _, above = latents_of(case, level, guide_trace)
        likelihood = net.ladder[level - 1].likelihood_net(features[level - 1][:, 1:], above)
        close(likelihood.loc, case.arrays[f"{mode}/qhat{level}/mu"], f"likelihood {level} mean")
        close(likelihood.scale, case.arrays[f"{mode}/qhat{level}/sigma"], f"likelihood {level} scale")
        kls[level] = torch.where(case.mask, kl_divergence(posterior, prior).sum(-1), 0.0)
        close(kls[level].unsqueeze(-1), case.arrays[f"{mode}/kl{level}"], f"KL {level}")
    recorded = case.group(f"{mode}/z/")
    for site, key in case.draws(mode).items():
        if site in guide_trace.nodes and key in recorded:
            close(guide_trace.nodes[site]["value"], recorded[key], f"draw {key}")

    check_heads(case, mode, model_trace)
    observed = model_trace.nodes["x"]["fn"]
    if not net.pointwise:  # one dimension of the event is time
        observed = observed.base_dist if observed.reinterpreted_batch_ndims == 1 else observed.base_dist.to_event(1)
    log_lik = observed.log_prob(case.x)
    close(log_lik.unsqueeze(-1), case.arrays[f"{mode}/loglik_per_step_unmasked"], "log-likelihood")
    close(
        torch.where(case.mask, log_lik, 0.0).unsqueeze(-1),
        case.arrays[f"{mode}/loglik_per_step"],
        "log-likelihood",
    )

    losses = case.group(f"{mode}/loss/")
    reduce = reduction(case)
    for level, kl in kls.items():
        if f"KL{level - 1}" in losses:
            close(reduce(kl), losses[f"KL{level - 1}"], f"KL loss {level}")
    close(weight * sum(reduce(kl) for kl in kls.values()), losses["loss_kld"], "KL loss")
    close(training_loss(case, mode), losses["total_loss"], "total loss")


def reduction(case):
    per_step = case.config["reduce_loss"] == "mean_step_loss"
    return lambda value: (value.sum(1) / (case.lengths if per_step else 1)).mean()


def training_loss(case, mode):
    """The authors' loss as Pyro computes it: analytic KL, annealing and reduction by scaling sites."""
    per_step = case.config["reduce_loss"] == "mean_step_loss"
    scale = 1 / (len(case.x) * (case.lengths.double() if per_step else torch.ones(len(case.x)).double()))
    scale = scale.reshape(-1, 1) if case.net.pointwise else scale
    weight = case.arrays[f"{mode}/kld_weight"].item()
    with FixedNoise(case.noise(mode)), poutine.scale(scale=scale):
        return TraceMeanField_ELBO()(case.net, case.net.guide)(case.x, case.mask, weight)


def test_sampling(case):
    with FixedNoise(case.noise("sampling")):
        trace = poutine.trace(case.net.model).get_trace(case.x, case.mask)
    for level, name in enumerate(case.net.latent_names, start=1):
        prior = base_normal(trace.nodes[name]["fn"])
        close(prior.loc, case.arrays[f"sampling/p{level}/mu"], f"p{level} mean")
        close(prior.scale, case.arrays[f"sampling/p{level}/sigma"], f"p{level} scale")
    check_heads(case, "sampling", trace)


@pytest.mark.parametrize("case", RECORDED, indirect=True)
def test_gradients(case):
    case.net.zero_grad()
    training_loss(case, "training").backward()
    recorded = published_weights(case.net, case.group("g/"))
    for name, parameter in case.net.named_parameters():
        # Recorded in float32: an entry that is a small difference of large terms carries rounding of the size of the
        # others.
        size = max(1.0, recorded[name].abs().max().item())
        close(parameter.grad / size, recorded[name] / size, f"gradient of {name}")
    total = torch.stack([p.grad.square().sum() for p in case.net.parameters()]).sum().sqrt()
    np.testing.assert_allclose(total.item(), case.arrays["grad_global_norm"].item(), rtol=1e-5)


@pytest.mark.parametrize("case", RECORDED, indirect=True)
def test_three_updates_of_the_authors_optimiser(case):
    """Global-norm clip 1, their learning rates, and Adam with their epsilon."""
    optimiser = torch.optim.Adam(case.net.parameters(), lr=1.0)
    compared = 0
    for update, (loss_before, lr) in enumerate(case.arrays["adam/loss_and_lr_before_each_step"], start=1):
        case.arrays["training/kld_weight"] = np.array(kl_weight(2500 + update - 1))
        np.testing.assert_allclose(lr, exponential_decay(2500 + update - 1, 1e-3, 0.98), rtol=1e-6)
        optimiser.param_groups[0].update(lr=lr, eps=adam_epsilon_hat(update))
        optimiser.zero_grad()
        loss = training_loss(case, "training")
        np.testing.assert_allclose(loss.item(), loss_before, rtol=1e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(case.net.parameters(), 1.0)
        optimiser.step()
        if recorded := case.group(f"w_after{update}/"):
            for name, value in published_weights(case.net, recorded).items():
                close(case.net.get_parameter(name), value, f"{name} after update {update}")
            compared += 1
    assert compared == 2, "weights were recorded after updates 1 and 3"


def test_parameter_count(case):
    assert sum(p.numel() for p in case.net.parameters()) == case.arrays["num_trainable"].item()


def test_weights_that_do_not_fit_are_refused_by_name(case):
    weights = case.group("w/")
    name = "latent/p_1_mu/conv1d_1/kernel"
    with pytest.raises(ValueError, match=f"missing variables: {name}"):
        load_published(case.config, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(ValueError, match="'extra/kernel'"):
        load_published(case.config, {**weights, "extra/kernel": weights[name]})


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        ("cnn_layer", "activation_fn", "elu"),
        ("cnn_layer", "use_residual", False),
        ("input_layer", "dropout_rate", 0.3),
        ("latent_layer", "top_down_latents", False),
        ("latent_layer", "type", "gaussian"),
        ("latent_layer", "latent_sigma_threshold", 3.0),
        ("output_layer", "type", "fc"),
    ],
)
def test_options_that_would_change_the_model_are_refused_by_name(part, option, value):
    config = json.loads((FIXTURES / "speech_dense_gmm.json").read_text())
    config[part][option] = value
    with pytest.raises(ValueError, match=f"{part}.{option}="):
        published_config(config, 4)


def test_weighted_losses_are_refused_by_name():
    config = json.loads((FIXTURES / "speech_dense_gmm.json").read_text())
    config["loss"]["out"]["weight"] = 2
    with pytest.raises(ValueError, match="loss.out.weight=2"):
        published_config(config, 4)
