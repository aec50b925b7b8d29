"""Scores of several systems: what is kept, what the table says."""

import dataclasses

import numpy as np
import pytest

from pyro_stcn.comparison import Score, by_system, figures_table, markdown_table
from pyro_stcn.evaluation import Statistic, evaluate
from pyro_stcn.models import Evidence
from pyro_stcn.observation import GaussianMixtureConfig

from .small import CAUSAL, POINTWISE, small_data, small_stcn


def score(system="a", seed=0, nats=(1.0, 2.0, 6.0), evidence=Evidence.LOWER_BOUND, seconds=0.1):
    identity = {"test": f"{len(nats)} sequences"}
    elbo = tuple(n - 1 for n in nats)
    return Score(system, seed, evidence, "IWAE-2 per sequence", nats, elbo, 1234, seconds, 10, identity)


@pytest.mark.parametrize(
    ("output", "options", "figure", "field"),
    [
        (POINTWISE, {}, "IWAE-3 per step", "iwae_per_step"),
        (CAUSAL, {}, "IWAE-3 per sequence", "iwae"),
        (CAUSAL, {"independent_draws": True}, "3-draw estimate per sequence", "iwae"),
        (CAUSAL, {"observation": GaussianMixtureConfig(3, floor=1e-6)}, "3-draw estimate per sequence", "iwae"),
    ],
)
def test_the_tightest_figure_goes_by_its_own_name(output, options, figure, field):
    evaluation = evaluate(small_stcn(output, **options), small_data(4), particles=3, progress=False)
    values, name = evaluation.tightest()
    assert name == figure
    assert values is getattr(evaluation, field)
    kept = Score.of(evaluation, system="a", seed=0, parameters=1, seconds_per_step=1.0, steps=1, identity={})
    np.testing.assert_array_equal(kept.nats, values)
    np.testing.assert_array_equal(kept.elbo, evaluation.objective)
    assert kept.evidence is evaluation.evidence
    assert {name: str(Statistic.of(np.array(v))) for name, v in kept.figures.items()} == {
        name: str(statistic) for name, statistic in evaluation.rows()
    }
    assert kept.figures[figure] == kept.nats
    assert {"KL z1", "KL z2"} < kept.figures.keys()


def test_scores_survive_the_disk(tmp_path):
    """With every figure of the evaluation, KLs included."""
    figures = {"ELBO": (0.1, 1 / 3, -1e-17), "IWAE-2 per sequence": (1.0, 2.0, 6.0), "KL z1": (0.25, 0.0, 3e5)}
    for kept in (score(), dataclasses.replace(score(), figures=figures)):
        kept.save(tmp_path / "score.json")
        assert Score.load(tmp_path / "score.json") == kept


def test_errors_of_pieces_are_over_their_recordings():
    nats = (1.0, 1.1, 5.0, 5.1)
    pieces = dataclasses.replace(score(nats=nats), recordings=("a", "a", "b", "b"), figures={"ELBO": nats})
    whole = Statistic.ratio(np.array(nats), np.ones(4), pieces.recordings)
    assert whole.standard_error > 1.5 * Statistic.of(np.array(nats)).standard_error
    for table in (markdown_table([pieces]), figures_table([pieces])):
        assert f"| {whole} |" in table


def test_the_table_names_every_figure_that_its_seeds_have():
    other = dataclasses.replace(score(seed=1), bound="FIVO-2")
    assert "| a | IWAE-2 per sequence or FIVO-2 |" in markdown_table([score(), other])


def test_the_table_has_means_over_seeds_with_their_errors_over_sequences():
    exact = dataclasses.replace(score("b", evidence=Evidence.EXACT, seconds=0.3), bound="log-likelihood")
    table = markdown_table([score(seed=1, nats=(3.0, 4.0, 8.0)), exact, score(seed=0)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["system", "a", "b"]
    a, b = rows[1], rows[2]
    assert a[1:3] == ["IWAE-2 per sequence", "lower bound"]
    assert a[3] == str(Statistic.of(np.array([2.0, 3.0, 7.0])))
    assert a[4] == "", "it is the best"
    assert b[4] == str(Statistic.of(np.array([-1.0, -1.0, -1.0]))), "on the same sequences"
    assert a[5] == "3.0, 5.0", "seeds in order"
    assert a[6] == str(Statistic.of(np.array([1.0, 2.0, 6.0])))
    assert a[7:] == ["1,234", "1.0"]
    assert b[2:3] + b[6:] == ["exact log-likelihood", "", "1,234", "3.0"]
    assert "over 3 sequences" in table
    assert "100 ms" in table


def test_what_is_no_bound_leads_nothing():
    estimate = score("c", nats=(9.0, 9.0, 9.0), evidence=Evidence.ESTIMATE)
    table = markdown_table([score(), estimate])
    cells = {line.split("|")[1].strip(): line.split("|")[5].strip() for line in table.splitlines() if "1,234" in line}
    assert cells == {"a": "", "c": str(Statistic.of(np.array([8.0, 7.0, 3.0])))}


def test_scores_of_different_test_sets_are_not_compared():
    with pytest.raises(ValueError, match="2 different test sets"):
        by_system([score(), score("b", nats=(1.0, 2.0))])


def test_a_time_that_was_not_measured_is_left_out():
    table = markdown_table([score("a", seconds=float("nan")), score("b", seconds=0.2)])
    cells = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines() if "1,234" in line}
    assert cells == {"a": "", "b": "1.0"}
    assert "nan" not in markdown_table([score(seconds=float("nan"))])


def test_the_table_of_figures_has_every_bound_and_what_it_gains_over_the_elbo():
    figures = {"ELBO": (0.0, 1.0, 5.0), "FIVO-2": (1.0, 2.0, 9.0), "log-likelihood term": (9.0,) * 3}
    figures["KL z1"] = (1.0,) * 3
    bounded = dataclasses.replace(score(), figures=figures)
    other = dataclasses.replace(score(seed=1), figures=figures | {"ELBO": (2.0, 3.0, 7.0)})
    exact = dataclasses.replace(score("b", evidence=Evidence.EXACT), figures={"log-likelihood": (1.0, 2.0, 6.0)})
    table = figures_table([bounded, exact, other])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert rows[0] == ["system", "ELBO", "FIVO-2", "log-likelihood"]
    gain = Statistic.of(np.array([0.0, 0.0, 3.0]))
    elbo, fivo = (Statistic.of(np.array(values)) for values in ([1.0, 2.0, 6.0], [1.0, 2.0, 9.0]))
    assert rows[1] == ["a", str(elbo), f"{fivo} ({gain})", ""]
    assert rows[2] == ["b", "", "", str(Statistic.of(np.array([1.0, 2.0, 6.0])))]
