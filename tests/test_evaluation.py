"""Reported numbers against hand-made traces, exact guides and scipy; what they must not disturb."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
from pyro.poutine.messenger import Messenger

from pyro_stcn.bounds import FIVO
from pyro_stcn.data import SequenceDataset, collate
from pyro_stcn.diagnostics import effective_sample_size, pareto_khat
from pyro_stcn.evaluation import Statistic, evaluate
from pyro_stcn.ladder import base_normal
from pyro_stcn.models import MODELS, Evidence
from pyro_stcn.observation import GaussianMixtureConfig

from .linear_gaussian import DIM, linear_gaussian_stcn, log_evidence
from .small import CAUSAL, POINTWISE, small_data, small_stcn

DATA = small_data(7)
quiet = {"progress": False}


def numbers(result):
    """All values of an evaluation in one array, a row per quantity."""
    rows = [result.log_likelihood, result.iwae, *result.kl.values()]
    return np.stack(rows + ([] if result.iwae_per_step is None else [result.iwae_per_step]))


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@torch.no_grad()
def test_one_draw_by_hand(output):
    """Traces of the guide with the same noise, and densities written out with scipy."""
    net = small_stcn(output)
    result = evaluate(net, DATA, particles=1, batch_size=7, seed=3, **quiet)
    batch = collate(DATA, range(7))
    torch.manual_seed(3)
    net.guide(batch.x, batch.mask)
    model_trace, guide_trace = net.guide.get_traces()
    real = batch.mask.numpy()

    def over_real_steps(value):
        return np.where(real, value, 0).sum(-1)

    weight = 0
    for name in net.latent_names:
        z = model_trace.nodes[name]["value"].double().numpy()
        p, q = (base_normal(t.nodes[name]["fn"]) for t in (model_trace, guide_trace))
        m, s, mq, sq = (v.double().numpy() for v in (p.loc, p.scale, q.loc, q.scale))
        kl = (np.log(s / sq) + (sq**2 + (mq - m) ** 2) / (2 * s**2) - 0.5).sum(-1)
        np.testing.assert_allclose(result.kl[name], over_real_steps(kl), rtol=1e-5)
        weight = weight + (scipy.stats.norm(m, s).logpdf(z) - scipy.stats.norm(mq, sq).logpdf(z)).sum(-1)
    fn = model_trace.nodes["x"]["fn"]
    fn = fn.base_dist if net.pointwise else fn.base_dist.base_dist
    scale, x = fn.scale.double().numpy(), batch.x.double().numpy()[..., None, :]
    component = scipy.stats.norm(fn.loc.double().numpy(), scale).logpdf(x).sum(-1) + fn.logits.double().numpy()
    log_likelihood = scipy.special.logsumexp(component, -1)
    np.testing.assert_allclose(result.log_likelihood, over_real_steps(log_likelihood), rtol=1e-5)
    np.testing.assert_allclose(result.iwae, over_real_steps(weight + log_likelihood), rtol=1e-5)
    np.testing.assert_allclose(result.objective, result.log_likelihood - sum(result.kl.values()), rtol=1e-12)
    if net.pointwise:
        np.testing.assert_allclose(result.iwae_per_step, result.iwae, rtol=1e-9)
    else:
        assert result.iwae_per_step is None


class SameNoise(Messenger):
    """Gives the draws of a sequence by its place in the data set and nothing else."""

    def __init__(self, dataset):
        super().__init__()
        self.values = {row[0].tobytes(): i for i, row in enumerate(dataset.sequences)}

    def _pyro_sample(self, msg):
        if not msg["name"].startswith("z"):
            return
        normal = base_normal(msg["fn"])
        index = torch.tensor(self.places)[:, None, None]
        step, channel = torch.arange(normal.loc.shape[-2])[:, None], torch.arange(normal.loc.shape[-1])
        msg["value"] = normal.loc + normal.scale * torch.sin(1e3 * torch.sin(index + 7.0 * step + 31.0 * channel))
        msg["done"] = True


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_batches_and_padding_change_nothing(output, monkeypatch):
    """The same noise for a sequence, whatever batch and padding it lies in, gives the same numbers."""
    net, noise = small_stcn(output), SameNoise(DATA)
    clean = net.clean

    def watched(x, mask):
        noise.places = [noise.values[row.numpy().tobytes()] for row in x[:, 0]]
        return clean(x, mask)

    monkeypatch.setattr(net, "clean", watched)
    with noise:
        results = [
            numbers(evaluate(net, DATA, particles=2, batch_size=b, chunk=c, **quiet))
            for b, c in ((7, 2), (1, 1), (3, 2))
        ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=2e-5)


def exact_case():
    net = linear_gaussian_stcn((1, 1), dense=True, exact=True)
    rng = np.random.default_rng(0)
    lengths = (6, 3, 5, 1)
    dataset = SequenceDataset(tuple(rng.normal(size=(n, DIM)) for n in lengths), tuple("abcd"))
    evidence = [log_evidence(net, torch.from_numpy(x)[None]).item() for x in dataset.sequences]
    return net, dataset, np.array(evidence)


@pytest.mark.parametrize(("batch_size", "chunk"), [(4, 5), (1, 5), (3, 1), (10, 100)])
def test_with_the_exact_guide_every_way_of_computing_gives_the_evidence(batch_size, chunk):
    net, dataset, evidence = exact_case()
    result = evaluate(net, dataset, particles=7, batch_size=batch_size, chunk=chunk, **quiet)
    np.testing.assert_allclose(result.iwae, evidence, atol=1e-4)
    np.testing.assert_allclose(result.iwae_per_step, evidence, atol=1e-4)
    assert result.names == dataset.names
    assert result.lengths.tolist() == [6, 3, 5, 1]


def test_chunks_are_only_a_matter_of_memory():
    net = small_stcn()
    results = [evaluate(net, DATA, particles=1500, chunk=chunk, **quiet) for chunk in (1500, 399)]
    for name in net.latent_names:
        np.testing.assert_allclose(results[0].kl[name], results[1].kl[name], rtol=0.1)
    np.testing.assert_allclose(results[0].objective, results[1].objective, rtol=0.04)


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_bounds_are_in_order(output):
    net = small_stcn(output)
    one, many = (evaluate(net, DATA, particles=k, chunk=100, **quiet) for k in (20, 500))
    assert (many.objective < many.iwae).all()
    assert one.iwae.sum() < many.iwae.sum(), "grows with K"
    if net.pointwise:
        assert many.iwae.sum() < many.iwae_per_step.sum(), "tighter per step"


def test_values_are_float64_and_per_sequence():
    result = evaluate(small_stcn(), DATA, particles=3, **quiet)
    assert numbers(result).dtype == np.float64
    assert numbers(result).shape == (5, 7)
    assert (np.stack(list(result.kl.values())) >= 0).all()
    assert result.particles == 3


def test_statistic():
    values = np.random.default_rng(0).normal(size=30)
    statistic = Statistic.of(values)
    assert statistic.mean == pytest.approx(values.mean())
    assert statistic.standard_error == pytest.approx(scipy.stats.sem(values))
    assert statistic.count == 30
    assert math.isnan(Statistic.of(values[:1]).standard_error)
    assert str(Statistic(-12.345, 0.678, 3)) == "-12.3 ± 0.7"


def test_sums_over_a_long_time_are_in_float64():
    """Against the same weights and the same noise in float64: what is lost is what single steps lose."""
    rng = np.random.default_rng(0)
    long = SequenceDataset((rng.normal(size=(3000, 4)),))
    for output in (POINTWISE, CAUSAL):
        values = []
        for dtype in (torch.float32, torch.float64):
            net = small_stcn(output).to(dtype)
            noise = SameNoise(long)
            noise.places = [0]
            with noise:
                values.append(numbers(evaluate(net, long, particles=1, **quiet)))
        np.testing.assert_allclose(values[0], values[1], rtol=3e-7)


def test_networks_over_x_run_once_for_all_repeats():
    net = small_stcn()
    calls = []
    net.backbone.register_forward_hook(lambda *_: calls.append(1))
    evaluate(net, DATA, particles=2, repeats=5, batch_size=4, **quiet)
    assert len(calls) == 2


def test_a_report_says_what_its_numbers_are():
    result = evaluate(small_stcn(), DATA, particles=4, **quiet)
    text = str(result)
    steps = sum(map(len, DATA.sequences))
    for part in ("nats per sequence", "7 sequences", f"{steps} steps, all scored", "K = 4", "lower bound"):
        assert part in text
    rows = dict(result.rows())
    assert list(rows) == ["ELBO", "IWAE-4 per sequence", "IWAE-4 per step", "log-likelihood term", "KL z1", "KL z2"]
    assert rows["ELBO"].mean == pytest.approx(
        rows["log-likelihood term"].mean - rows["KL z1"].mean - rows["KL z2"].mean
    )
    assert f"{rows['ELBO'].mean:.1f} ± {rows['ELBO'].standard_error:.1f}" in text
    assert "IWAE-4 per step" not in str(evaluate(small_stcn(CAUSAL), DATA, particles=4, **quiet))


@pytest.mark.parametrize(
    ("options", "evidence"),
    [
        ({}, Evidence.LOWER_BOUND),
        ({"independent_draws": True}, Evidence.ESTIMATE),
        ({"independent_draws": True, "dense": False}, Evidence.LOWER_BOUND),
        ({"observation": GaussianMixtureConfig(3, 1e-6)}, Evidence.ESTIMATE),
    ],
)
def test_evidence_is_that_of_the_model(options, evidence):
    result = evaluate(small_stcn(**options), DATA, particles=2, **quiet)
    assert result.evidence is evidence
    bound = evidence is Evidence.LOWER_BOUND
    assert ("ELBO" in str(result)) == ("IWAE" in str(result)) == bound
    assert ("NOT BOUNDS" in str(result)) != bound


# --------------------------------------------------------------------------------------------- what is left undisturbed


@pytest.mark.parametrize("training", [True, False])
def test_random_state_mode_and_gradients_are_left_alone(training):
    net = small_stcn().train(training)
    net.backbone.eval()
    before = torch.get_rng_state()
    evaluate(net, DATA, particles=2, **quiet)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training == training
    assert not net.backbone.training, "a part that was in another mode stays in it"
    assert all(p.grad is None for p in net.parameters())


def test_the_seed_is_all_the_noise():
    net = small_stcn()
    first = numbers(evaluate(net, DATA, seed=1, **quiet))
    torch.randn(3)
    assert (numbers(evaluate(net, DATA, seed=1, **quiet)) == first).all()
    assert (numbers(evaluate(net, DATA, seed=2, **quiet)) != first).any()


def test_a_bound_that_is_not_finite_is_named():
    sequences = list(DATA.sequences)
    sequences[2] = sequences[2] * 1e25
    dataset = SequenceDataset(tuple(sequences), DATA.names)
    net = small_stcn()
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="the objective of 1 of 7 sequences is not finite, first of 's2'"):
        evaluate(net, dataset, particles=2, batch_size=2, **quiet)
    assert net.training
    assert torch.equal(torch.get_rng_state(), before)


class OneBadDraw(Messenger):
    """Moves one draw of one sequence very far away."""

    def _pyro_post_sample(self, msg):
        if msg["name"] == "z1":
            msg["value"][0, 4] = 1e18


def test_one_draw_in_many_that_is_not_finite_is_named():
    """A likelihood of zero in one of five draws: importance weights survive it, the ELBO does not."""
    net = small_stcn()
    net.observation.loc.weight.data *= 1e4
    with (
        OneBadDraw(),
        pytest.raises(ValueError, match="the objective of 1 of 7 sequences is not finite, first of 's4'"),
    ):
        evaluate(net, DATA, particles=5, **quiet)


@pytest.mark.parametrize("option", ["particles", "chunk", "batch_size"])
def test_what_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} .*0"):
        evaluate(small_stcn(), DATA, **{option: 0}, **quiet)


def test_data_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"x must be \(batch, time, 4\)"):
        evaluate(small_stcn(), SequenceDataset((np.zeros((3, 5)),), ("a",)), **quiet)


# ------------------------------------------------------------------------------------------------- weights and filters


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_networks_over_x_run_once_a_batch_whatever_k_is(output):
    net = small_stcn(output)
    calls = []
    net.backbone.register_forward_hook(lambda *_: calls.append(1))
    evaluate(net, DATA, particles=12, chunk=3, batch_size=4, **quiet)
    assert len(calls) == 2, "7 sequences, 4 at a time"


def test_an_exact_figure_is_computed_once():
    net = MODELS["rnn"](4, 6, 1, 5).build()
    calls = []
    net.recurrence.register_forward_hook(lambda *_: calls.append(1))
    result = evaluate(net, DATA, particles=12, batch_size=50, **quiet)
    assert len(calls) == 1
    assert result.particles == 1


def test_a_particle_filter_beside_the_other_bounds():
    result = evaluate(small_stcn(CAUSAL), DATA, particles=20, filter=FIVO(20), **quiet)
    values, particles = result.filtered
    assert particles == 20
    assert values.shape == result.iwae.shape
    gain = Statistic.of(values - result.objective)
    assert gain.mean > 4 * gain.standard_error, "20 particles are better than one"
    assert "FIVO-20 " in str(result)
    assert evaluate(small_stcn(CAUSAL), DATA, particles=2, **quiet).filtered is None
    with pytest.raises(NotImplementedError, match="its log-likelihood is exact"):
        evaluate(MODELS["rnn"](4, 6, 1, 5).build(), DATA, filter=FIVO(3), **quiet)


def test_effective_sample_size_and_khat_of_known_weights():
    equal, one = torch.zeros(40), torch.full((40,), -1e4)
    one[7] = 0.0
    torch.testing.assert_close(effective_sample_size(torch.stack([equal, one], 1)), torch.tensor([40.0, 1.0]))
    torch.testing.assert_close(effective_sample_size(torch.tensor([0.0, math.log(3.0)])), torch.tensor(16 / 10))
    # Weights u^-k are Pareto with shape k.
    uniform = torch.rand(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in (0.3, 0.7, 1.2):
        assert pareto_khat(-k * uniform.log()).item() == pytest.approx(k, abs=0.15)
    assert pareto_khat(torch.zeros(100, 2)).tolist() == [-math.inf] * 2
    assert torch.isnan(pareto_khat(torch.randn(24, 2))).all(), "too few for a tail"
    spread = torch.arange(100.0, dtype=torch.float64).unsqueeze(1) * 1e4
    assert pareto_khat(spread).tolist() == [math.inf], "one weight is everything"
    for scale in (30, 300, 1000):  # weights down to the smallest numbers there are, and below
        for count in (25, 100, 1000):
            khat = pareto_khat(scale * torch.randn(count, 60, dtype=torch.float64))
            assert not khat.isnan().any()
            assert (khat > 0.7).all()


def test_a_report_says_how_good_the_weights_are():
    result = evaluate(small_stcn(), DATA, particles=30, **quiet)
    assert ((result.effective >= 1) & (result.effective <= 30)).all()
    assert np.isfinite(result.khat).all()
    assert "half have an effective sample size above" in str(result)
    assert "Pareto k-hat is above 0.7 for" in str(result)
    assert "k-hat" not in str(evaluate(small_stcn(), DATA, particles=3, **quiet))


def test_a_filters_figure_goes_by_its_own_name_and_is_the_tightest_it_can_be():
    result = evaluate(small_stcn(CAUSAL), DATA, particles=5, filter=FIVO(6), **quiet)
    values, name = result.tightest()
    assert name == "FIVO-6"
    assert values is result.filtered[0]
    for particles, name in ((6, "IWAE-6 per step"), (9, "IWAE-9 per step"), (5, "FIVO-6")):
        per_step = evaluate(small_stcn(), DATA, particles=particles, filter=FIVO(6), **quiet)
        assert per_step.tightest()[1] == name, "with fewer draws a weight per step can be the looser one"
    one = evaluate(small_stcn(CAUSAL), DATA, particles=7, filter=FIVO(1), **quiet)
    assert one.tightest()[1] == "IWAE-7 per sequence"
    loose = evaluate(
        small_stcn(CAUSAL, observation=GaussianMixtureConfig(3, floor=1e-6)), DATA, filter=FIVO(6), **quiet
    )
    assert loose.tightest()[1] == "6-particle estimate"
    assert "FIVO" not in str(loose), "with a head that is no density it is no bound"


def test_a_filter_gives_way_to_a_bound_that_is_larger_beyond_noise():
    result = evaluate(small_stcn(CAUSAL), DATA, particles=5, filter=FIVO(6), **quiet)
    iwae, noise = result.iwae, np.random.default_rng(0).normal(size=len(DATA))
    for shift, name in ((-1.0, "IWAE-5 per sequence"), (-1e-3, "FIVO-6"), (0.0, "FIVO-6"), (1.0, "FIVO-6")):
        one = dataclasses.replace(result, filtered=(iwae + shift + 0.1 * noise, 6))
        assert one.tightest()[1] == name
    loose = dataclasses.replace(result, filtered=(iwae - 1.0, 6), evidence=Evidence.ESTIMATE)
    assert loose.tightest()[1] == "6-particle estimate", "what is no bound is not chosen by its value"


def test_the_csv_holds_every_value(tmp_path):
    for output in (CAUSAL, POINTWISE):
        result = evaluate(small_stcn(output), DATA, particles=30, filter=FIVO(3), **quiet)
        result.to_csv(tmp_path / "test.csv")
        rows = [line.split(",") for line in (tmp_path / "test.csv").read_text().splitlines()]
        assert rows[0] == ["name", "scored steps", *result.figures(), "effective sample size", "Pareto k-hat"]
        assert float(rows[1][rows[0].index("FIVO-3")]) == result.filtered[0][0]
        assert len(rows) == 1 + len(DATA)
