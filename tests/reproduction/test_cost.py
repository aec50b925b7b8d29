"""What a dry run says: times that scale with updates and seeds, memory, and rows that share their runs."""

import dataclasses

import pytest

from pyro_stcn.reproduction import BUDGETS, cost_table, measured_costs, plan, rough_costs
from pyro_stcn.reproduction import cost as module

from .toy import speech, strokes

CORPUS = strokes()
SMALL = BUDGETS["small"]


def test_two_updates_of_every_row_are_timed_and_leave_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    planned = plan("table3", "strokes", CORPUS, SMALL, systems=("25x256-ladderrnn-gmm", "5x512-ladderrnn-gmm"))
    made = []
    fit = module.fit

    def counting(*args, **kwargs):
        result = fit(*args, **kwargs)
        made.append(result.step)
        return result

    monkeypatch.setattr(module, "fit", counting)
    one, other = measured_costs(planned, CORPUS)
    assert made == [2], "both rows have the same runs"
    assert (one.shared, other.shared) == (False, True)
    assert 0 < one.seconds_per_step == other.seconds_per_step
    assert one.training == pytest.approx(600 * one.seconds_per_step)
    assert other.seconds == 0
    assert one.memory == 16 * one.row.parameters
    assert not list(tmp_path.iterdir())


def test_costs_grow_with_updates_seeds_draws_and_size(monkeypatch):
    monkeypatch.setattr(module, "_operations_per_second", lambda: 1e9)

    def costs(**options):
        return list(rough_costs(plan("table1", "strokes", CORPUS, SMALL, **options), CORPUS))

    base = costs()
    for once, twice in zip(base, costs(seeds=(0, 1)), strict=True):
        assert twice.seconds == pytest.approx(2 * once.seconds)
    for once, twice in zip(base, costs(steps=1200), strict=True):
        assert twice.training == pytest.approx(2 * once.training)
    for once, more in zip(base, costs(particles=80), strict=True):
        assert (more.scoring > once.scoring) == once.row.has_latents
    sizes = sorted((cost.row.parameters, cost.seconds_per_step) for cost in base)
    assert [time for _, time in sizes] == sorted(time for _, time in sizes)


def test_the_table_lists_rows_sizes_and_a_total(monkeypatch):
    monkeypatch.setattr(module, "_operations_per_second", lambda: 1e9)
    corpus = speech()
    planned = plan("table1", "timit", corpus, BUDGETS["full"])
    costs = list(rough_costs(planned, corpus))
    text = cost_table(planned, corpus, costs, "guessed")
    assert "| STCN-dense (GMM) | timit/stcn-dense-gmm | 15,669,012 | 239 MiB | 100,000 | 1 |" in text
    assert text.count("\n| ") == 13
    assert "4 training, 2 validation and 3 test sequences" in text
    assert "12 runs, about " in text
    assert "Times: guessed." in text
    assert "Not comparable with the published figures: the test set has 3 sequences" in text


def test_a_shared_row_is_no_run_of_its_own(monkeypatch):
    monkeypatch.setattr(module, "_operations_per_second", lambda: 1e9)
    planned = plan("table3", "strokes", CORPUS, SMALL, seeds=(0, 1))
    costs = list(rough_costs(planned, CORPUS))
    assert "16 runs, about" in cost_table(planned, CORPUS, costs, "guessed")
    assert sum(cost.shared for cost in costs) == 4
    total = sum(cost.training + cost.scoring for cost in costs if not cost.shared)
    assert sum(cost.seconds for cost in costs) == pytest.approx(total)
    assert all(dataclasses.replace(cost, shared=False).seconds > 0 for cost in costs)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (119, "119 s"), (600, "10.0 min"), (9000, "2.5 h"), (200_000, "2.3 days")]
)
def test_durations_are_in_a_unit_to_read(seconds, text):
    assert module._duration(seconds) == text
