"""WaveNet: the authors' numbers, exact log-likelihoods, and streaming."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam

from pyro_stcn.data import SequenceDataset
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate
from pyro_stcn.models import MODELS, Evidence, WaveNetConfig
from pyro_stcn.observation import GaussianMixtureConfig, NormalConfig, PenStrokeConfig, PointwiseOutputConfig
from pyro_stcn.published import load_published, published_weights
from pyro_stcn.schedules import adam_epsilon_hat

FIXTURES = Path(__file__).parents[1] / "fixtures"


def wavenet(**options):
    sizes = {"dilations": (1, 2, 1, 2), "filters": 8, "output": PointwiseOutputConfig(2, 8)}
    return WaveNetConfig(4, **{**sizes, "observation": GaussianMixtureConfig(3), **options}).build()


def ragged():
    return torch.randn(3, 9, 4), torch.arange(9) < torch.tensor([9, 6, 4])[:, None]


@pytest.fixture
def recorded():
    config = json.loads((FIXTURES / "wavenet_gmm.json").read_text())
    with np.load(FIXTURES / "wavenet_gmm.npz") as file:
        arrays = {key: file[key].astype(np.float64) for key in file.files}
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    net = load_published(config, weights).double()
    net.load_state_dict(published_weights(net, weights))
    x, lengths = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["lengths"])
    return net, arrays, x, torch.arange(x.shape[1]) < lengths[:, None]


def test_parity_forward(recorded):
    net, arrays, x, mask = recorded
    trace = poutine.trace(net.model).get_trace(x, mask)
    trace.compute_log_prob()
    head = trace.nodes["x"]["fn"].base_dist
    close = {"rtol": 1e-5, "atol": 1e-5}
    for mode in ("training", "evaluation"):
        theirs = {k.split("/")[-1]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{mode}/head")}
        torch.testing.assert_close(head.logits[:, 1:].exp(), theirs["out_coefficient"], **close)
        torch.testing.assert_close(head.loc[:, 1:].transpose(-1, -2).flatten(-2), theirs["out_mu"], **close)
        torch.testing.assert_close(head.scale[:, 1:].transpose(-1, -2).flatten(-2), theirs["out_sigma"], **close)
        log_lik = torch.from_numpy(arrays[f"{mode}/loglik_per_step"])[..., 0]
        torch.testing.assert_close(trace.nodes["x"]["log_prob"][:, 1:], log_lik, **close)
        total = -trace.nodes["x"]["log_prob"].sum() / len(x)
        assert total.item() == pytest.approx(arrays[f"{mode}/loss/total_loss"].item(), rel=1e-5)
    assert (trace.nodes["x"]["log_prob"][:, 0] == 0).all(), "the first step is given, not scored"


def test_parity_gradients_and_three_updates(recorded):
    net, arrays, x, mask = recorded

    def backward():
        net.zero_grad()
        loss = Trace_ELBO()(net, net.guide)(x, mask) / len(x)
        loss.backward()
        return loss.item()

    backward()
    theirs = published_weights(net, {k[2:]: v for k, v in arrays.items() if k.startswith("g/")})
    for name, parameter in net.named_parameters():
        size = max(1.0, theirs[name].abs().max().item())  # float32 rounding is relative to the largest entry
        torch.testing.assert_close(parameter.grad / size, theirs[name] / size, rtol=1e-5, atol=1e-5)
    optimiser = torch.optim.Adam(net.parameters(), lr=1.0)
    for update, (loss_before, lr) in enumerate(arrays["adam/loss_and_lr_before_each_step"], start=1):
        optimiser.param_groups[0].update(lr=lr, eps=adam_epsilon_hat(update))
        assert backward() == pytest.approx(loss_before, rel=1e-5)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if after := {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"w_after{update}/")}:
            for name, value in published_weights(net, after).items():
                torch.testing.assert_close(net.get_parameter(name).detach(), value, rtol=1e-5, atol=1e-5)


OPTIONS = [{}, {"taps": (2, 4)}, {"observation": NormalConfig()}, {"observation": PenStrokeConfig(NormalConfig())}]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_the_log_likelihood_is_exact_and_streaming_agrees(options):
    net = wavenet(**options)
    x, _ = ragged()
    x[..., -1] = (x[..., -1] > 0).double()
    state, previous, total = net.initial_state(3), torch.zeros(3, 4), 0.0
    for x_t in x.unbind(1):
        state, distribution = net.step(state, previous)
        total, previous = total + distribution.log_prob(x_t), x_t
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        assert elbo.loss(net.model, net.guide, x) == pytest.approx(-total.sum().item(), abs=1e-9)
    result = evaluate(net.float(), SequenceDataset(tuple(x.float().numpy()), tuple("abc")), progress=False)
    np.testing.assert_allclose(result.log_likelihood, total, rtol=1e-4)
    assert result.evidence is Evidence.EXACT
    assert "exact" in str(result)
    assert "ELBO" not in str(result)


def by_hand(weights, dilations, taps, x):
    """What the head reads at every step, step after step in NumPy.

    A causal convolution of two taps without a nonlinearity, gated residual blocks, the sum of their skip outputs (or
    the outputs of the tapped blocks side by side), and two 1x1 layers, each with a ReLU before it.
    """

    def column(rows, t):
        return rows[t] if t >= 0 else np.zeros_like(rows[0])

    def conv(name, rows, t, dilation):
        w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return w[..., 1] @ rows[t] + w[..., 0] @ column(rows, t - dilation) + b

    rows = [conv("first", x, t, 1) for t in range(len(x))]
    outputs, skips = [], []
    for i, dilation in enumerate(dilations):
        after, skip = [], []
        for t in range(len(x)):
            signal, gate = np.split(conv(f"tcn.blocks.{i}.filter_gate", rows, t, dilation), 2)
            hidden = np.tanh(signal) / (1 + np.exp(-gate))
            skip.append(weights[f"tcn.blocks.{i}.out.weight"][..., 0] @ hidden + weights[f"tcn.blocks.{i}.out.bias"])
            after.append(skip[-1] + rows[t])
        rows = after
        outputs.append(np.array(after))
        skips.append(np.array(skip))
    gathered = sum(skips) if taps is None else np.concatenate([outputs[number - 1] for number in taps], -1)
    for layer in (0, 1):
        gathered = np.maximum(gathered, 0) @ weights[f"output.layers.{layer}.weight"].T
        gathered += weights[f"output.layers.{layer}.bias"]
    return np.maximum(gathered, 0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("predicts_first", [True, False])
@pytest.mark.parametrize("head", [GaussianMixtureConfig(3), NormalConfig(), PenStrokeConfig(NormalConfig())])
@pytest.mark.parametrize("taps", [None, (2, 4), (1, 3, 4)])
@torch.no_grad()
def test_it_is_the_network_written_out(taps, head, predicts_first):
    net, (x, mask) = wavenet(taps=taps, observation=head, predicts_first=predicts_first), ragged()
    for parameter in net.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    x[..., -1] = (x[..., -1] > 0).double()
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    expected = torch.zeros(3, 9)
    for i, row in enumerate(x):
        past = np.concatenate([np.zeros((int(predicts_first), 4)), row[:-1]])  # a frame of zeros stands before x_1
        hidden = torch.from_numpy(by_hand(weights, (1, 2, 1, 2), taps, past))
        expected[i, len(row) - len(hidden) :] = net.observation(hidden).log_prob(row[len(row) - len(hidden) :])
    trace = poutine.trace(net.model).get_trace(x, mask)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], torch.where(mask, expected, 0.0))


@pytest.mark.parametrize("options", OPTIONS)
def test_it_trains_with_svi_and_generates(options):
    net = wavenet(**options)
    x, mask = ragged()
    x[..., -1] = (x[..., -1] > 0).float()
    before = {name: p.clone() for name, p in net.named_parameters()}
    svi = SVI(net.model, net.guide, Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x, mask) for _ in range(30)]
    assert losses[-1] < losses[0]
    skips_of_last = {f"tcn.blocks.{len(net.tcn.blocks) - 1}.residual"}
    assert not [n for n, p in net.named_parameters() if torch.equal(p, before[n]) and n not in skips_of_last]
    assert torch.isfinite(generate(net, 20, 2, progress=False)).all()


@pytest.mark.usefixtures("double")
def test_causality_receptive_field_and_padding():
    net = wavenet()
    x = torch.randn(1, 16, 4)

    def mean(x):
        return poutine.trace(net.model).get_trace(x).nodes["x"]["fn"].mean[0].sum(-1)

    sees = torch.autograd.functional.jacobian(mean, x)[:, 0].abs().sum(-1)
    reach = net.receptive_field
    assert reach == 8
    assert all((sees[t, s] != 0) == (t - reach <= s < t) for t in range(16) for s in range(16))

    x, mask = ragged()
    plain = Trace_ELBO().loss(net.model, net.guide, x, mask)
    x[~mask] = float("nan")
    assert Trace_ELBO().loss(net.model, net.guide, x, mask) == plain


def test_a_report_says_when_the_first_step_is_not_scored():
    dataset = SequenceDataset(tuple(ragged()[0].numpy()))
    for predicts_first, said in ((True, "27 steps, all scored"), (False, "all but the first of each sequence scored")):
        assert said in str(evaluate(wavenet(predicts_first=predicts_first), dataset, progress=False))


def test_configuration():
    assert MODELS["wavenet"] is WaveNetConfig
    assert sum(p.numel() for p in WaveNetConfig().build().parameters()) > 1e6
    with pytest.raises(ValueError, match="taps must number some of the 4 blocks"):
        wavenet(taps=(0, 4))


def test_where_x1_is_given_a_sequence_of_one_step_says_nothing():
    net = wavenet(predicts_first=False)
    assert poutine.trace(net.model).get_trace(torch.randn(2, 1, net.data_dim)).log_prob_sum() == 0
