"""What is planned: presets, sizes, updates, protocols, and what the notes admit."""

import dataclasses

import pytest

from pyro_stcn.data import DataError
from pyro_stcn.presets import PRESETS
from pyro_stcn.reproduction import BUDGETS, plan
from pyro_stcn.tables import TABLES

from .toy import speech, strokes

FULL, SMALL, TINY = BUDGETS["full"], BUDGETS["small"], BUDGETS["tiny"]
STROKES, SPEECH = strokes(), speech()


def row(planned, label):
    return next(row for row in planned.rows if row.table_row.label == label)


def test_the_full_budget_is_the_papers_presets_as_they_are():
    planned = plan("table1", "timit", SPEECH, FULL)
    assert len(planned.rows) == 12
    for one in planned.rows:
        preset = PRESETS[one.preset]
        assert one.preset == f"timit/{one.table_row.system}"
        assert (one.study.model, one.study.training) == (preset.model, preset.training)
        assert not any("updates" in note or "parameters" in note for note in one.notes)
    assert row(planned, "STCN-dense (GMM)").parameters == 15_669_012
    assert (planned.particles, planned.seeds) == (40, (0,))


def test_a_scaled_down_row_says_by_how_much():
    dense = row(plan("table1", "timit", SPEECH, SMALL), "STCN-dense (GMM)")
    assert dense.preset == "timit/stcn-dense-gmm-small"
    assert "small preset: 0.7 M instead of 15.7 M parameters" in dense.notes
    assert "600 of 100,000 updates" in dense.notes
    assert not any("weight of the KL" in note for note in dense.notes)


def test_updates_are_overridden_and_what_that_does_to_the_kl_is_said():
    planned = plan("table1", "strokes", STROKES, SMALL, steps=60)
    assert {one.steps for one in planned.rows} == {60}
    assert "60 of 100,000 updates" in row(planned, "STCN (GMM)").notes
    assert "the weight of the KL had come to 0.12 when training ended" in row(planned, "STCN (GMM)").notes
    assert not any("KL" in note for note in row(planned, "RNN (GMM)").notes), "it has none"
    assert {one.steps for one in plan("table1", "strokes", STROKES, TINY).rows} == {2}
    assert plan("table1", "timit", SPEECH, FULL, steps=100_000).rows == plan("table1", "timit", SPEECH, FULL).rows


def test_rows_that_the_paper_has_not_for_a_corpus_are_not_planned():
    labels = [one.table_row.label for one in plan("table1", "strokes", STROKES, SMALL).rows]
    assert labels == [row.label for row in TABLES["table1"].rows_of("iamondb")]
    assert "SRNN (Normal)" not in labels


def test_rows_with_one_small_model_for_them_share_it_and_say_so():
    planned = plan("table3", "strokes", STROKES, SMALL)
    two = [row(planned, f"{size}-LadderRNN-dense (GMM)") for size in ("25x256", "5x512")]
    assert two[0].study == two[1].study
    assert "the same runs as 5x512-LadderRNN-dense (GMM): there is one small model for them" in two[0].notes
    assert not any("same runs" in note for note in row(planned, "25x256-STCN (GMM)").notes)
    assert len({one.study.name for one in plan("table3", "iamondb", STROKES, FULL).rows}) == 12


@pytest.mark.parametrize(
    ("kind", "corpus", "why"),
    [
        ("timit", speech(test=20), "the test set has 20 sequences, and that of TIMIT 1680"),
        ("timit", speech(test=1680, steps=(1, 1)), ""),
        ("timit", speech("synthetic-timit", test=1680, steps=(1, 1)), "these data are synthetic"),
        ("strokes", strokes(), "these data (toy) are not IAM-OnDB"),
        ("iamondb", strokes("iamondb"), ""),
        ("deepwriting", strokes("synthetic-deepwriting"), "these data are synthetic"),
    ],
)
def test_what_is_not_comparable_says_why(kind, corpus, why):
    found = plan("table1", kind, corpus, FULL).not_comparable
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_rows_are_scored_as_published_where_the_model_allows():
    planned = plan("table1", "timit", SPEECH, FULL)
    names = {one.table_row.label: one.protocol.name for one in planned.rows}
    assert names["STCN (GMM)"] == names["RNN (GMM)"] == "timit/stcn"
    assert names["Wavenet (GMM)"] == "timit/wavenet"
    assert names["SRNN (Normal)"] == "timit/srnn, all steps"
    srnn = row(planned, "SRNN (Normal)")
    assert not srnn.protocol.given_first
    assert "published with x_1 given, which would be no bound for this model: all steps are scored" in srnn.notes
    ink = plan("table1", "deepwriting", STROKES, FULL)
    assert row(ink, "RNN (GMM)").protocol.given_first, "of the STCN authors, who shift its data"
    assert not row(ink, "STCN (GMM)").protocol.given_first


def test_models_as_released_are_planned_where_there_are_any():
    planned = plan("table1", "iamondb", STROKES, FULL, as_released=True)
    dense, vrnn = row(planned, "STCN-dense (GMM)"), row(planned, "VRNN (GMM)")
    assert dense.preset == "iamondb/stcn-dense-gmm-published"
    assert dense.study.model.independent_draws
    assert "trained and scored as the released code does it" in dense.notes
    assert vrnn.preset == "iamondb/vrnn-gmm"
    with pytest.raises(ValueError, match="no small presets, give the full budget"):
        plan("table1", "iamondb", STROKES, SMALL, as_released=True)


def test_rows_can_be_chosen():
    planned = plan("table1", "strokes", STROKES, SMALL, systems=("stcn-gmm", "rnn-gmm"))
    assert [one.table_row.system for one in planned.rows] == ["rnn-gmm", "stcn-gmm"], "in the paper's order"
    with pytest.raises(ValueError, match="no row 'srnn-normal' on IAM-OnDB; it has: wavenet-gmm"):
        plan("table1", "strokes", STROKES, SMALL, systems=("srnn-normal",))


@pytest.mark.parametrize(
    ("table", "kind", "corpus", "says"),
    [
        ("table1", "arrays", STROKES, "no column for it; it can be made of: timit, "),
        ("table2", "deepwriting", STROKES, "no column for it; it can be made of: timit, iamondb, strokes"),
        ("figure3", "timit", SPEECH, "a picture of handwriting; it can be made of: iamondb, deepwriting, strokes"),
        ("table1", "timit", STROKES, "have 3 channels, and table1 needs 200"),
    ],
)
def test_data_that_do_not_fit_are_refused(table, kind, corpus, says):
    with pytest.raises(DataError, match=says):
        plan(table, kind, corpus, SMALL)


@pytest.mark.parametrize("options", [{"seeds": ()}, {"steps": 0}, {"particles": 0}, {"steps": -1}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        plan("table1", "strokes", STROKES, SMALL, **options)


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="no table 'table9'; there are: table1"):
        plan("table9", "strokes", STROKES, SMALL)


def test_a_seed_twice_is_one_seed_and_a_budget_of_ones_own_counts():
    own = dataclasses.replace(SMALL, name="own", steps=7, particles=3)
    planned = plan("table1", "strokes", STROKES, own, seeds=(4, 4, 2))
    assert planned.seeds == (4, 2)
    assert planned.particles == 3
    assert {one.steps for one in planned.rows} == {7}


def test_planning_allocates_no_weights_and_leaves_the_random_state_alone():
    import torch

    before = torch.get_rng_state()
    plan("table1", "timit", SPEECH, FULL)
    assert torch.equal(torch.get_rng_state(), before)
