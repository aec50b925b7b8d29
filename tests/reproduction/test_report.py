"""Our figures beside the published ones: the same kind of figure, its error, and what has to be said."""

import csv
import io

import numpy as np
import pytest

from pyro_stcn.comparison import Score
from pyro_stcn.models import Evidence
from pyro_stcn.reports import Statistic
from pyro_stcn.reproduction import BUDGETS, Result, csv_table, markdown_report, plan

from .toy import speech, strokes

SMALL = BUDGETS["small"]
OTHER, SAME = strokes(), strokes("iamondb")
ELBO, MANY, STEP = (10.0, 12.0, 17.0), (11.0, 13.0, 18.0), (20.0, 21.0, 25.0)


def score(seed=0, shift=0.0, exact=False, recordings=None):
    figures = {"log-likelihood": ELBO} if exact else {"ELBO": ELBO, "IWAE-40 per sequence": MANY}
    figures = {name: tuple(value + shift for value in values) for name, values in figures.items()}
    if not exact:
        figures |= {"IWAE-40 per step": STEP, "log-likelihood term": ELBO}
        figures |= {f"KL z{i}": (float(i), i + 1.0, i + 2.0) for i in (1, 2, 3)}
    evidence = Evidence.EXACT if exact else Evidence.LOWER_BOUND
    bound, nats = ("log-likelihood", figures["log-likelihood"]) if exact else ("IWAE-40 per step", STEP)
    identity = {"test": "x"}
    return Score("s", seed, evidence, bound, nats, ELBO, 1234, 0.1, 600, identity, figures, recordings)


def made(planned, **scores):
    return [Result(row, scores.get(row.table_row.system.replace("-", "_"), (score(),))) for row in planned.rows]


def lines(planned, corpus, results):
    return list(csv.DictReader(io.StringIO(csv_table(planned, corpus, results))))


def cells(text):
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_our_figure_is_of_the_kind_of_the_published_one():
    planned = plan("table1", "iamondb", SAME, SMALL, systems=("rnn-gmm", "vrnn-gmm", "stcn-dense-gmm"))
    results = made(planned, rnn_gmm=(score(exact=True),))
    rnn, vrnn, dense = lines(planned, SAME, results)
    assert [row["figure"] for row in (rnn, vrnn, dense)] == ["log-likelihood", "IWAE-40 per sequence", "ELBO"]
    assert [row["published mark"] for row in (rnn, vrnn, dense)] == ["", "≈", "≥"]
    for row, values in ((rnn, ELBO), (vrnn, MANY), (dense, ELBO)):
        statistic = Statistic.of(np.array(values))
        assert float(row["ours"]) == statistic.mean
        assert float(row["standard error"]) == statistic.standard_error
        assert float(row["difference"]) == statistic.mean - float(row["published"])
    assert (dense["tightest figure"], float(dense["tightest"])) == ("IWAE-40 per step", 22.0)
    assert float(dense["published"]) == 1796

    table = cells(markdown_report(planned, SAME, results))
    assert [row["ours"] for row in table] == ["13.0 ± 2.1", "14.0 ± 2.1", "13.0 ± 2.1"]
    assert [row["published, IAM-OnDB"] for row in table] == ["1,358", "≈ 1,384", "≥ 1,796"]
    assert table[2]["ours minus published"] == "-1,783.0"
    assert table[2]["tightest figure of ours"] == "IWAE-40 per step: 22.0 ± 1.5"
    assert table[2]["scored as"] == "iamondb/vrnn"
    assert (table[2]["parameters"], table[2]["updates"]) == ("1,234", "600")


def test_of_other_data_there_is_no_difference_and_the_table_says_why():
    planned = plan("table1", "strokes", OTHER, SMALL)
    results = made(planned)
    text = markdown_report(planned, OTHER, results)
    assert "**Not comparable: these data (toy) are not IAM-OnDB" in text
    assert "minus" not in text
    assert cells(text)[-1]["published, IAM-OnDB"] == "≥ 1,796", "printed all the same"
    for row in lines(planned, OTHER, results):
        assert row["difference"] == ""
        assert row["comparable"] == "False"
        assert row["notes"].startswith("these data (toy) are not IAM-OnDB")


def test_everything_that_was_scaled_down_is_in_header_and_row():
    planned = plan("table1", "strokes", OTHER, SMALL, systems=("stcn-dense-gmm",), seeds=(3, 5), particles=7)
    text = markdown_report(planned, OTHER, made(planned), "pyro-stcn reproduce table1")
    assert "Random numbers named toy." in text
    assert "Budget small: small models and few updates" in text
    assert "600 updates a run; seeds 3, 5; K = 7." in text
    assert "over 3 test sequences" in text
    assert "small preset: 0.4 M instead of 12.6 M parameters" in text
    assert "600 of 100,000 updates" in text
    assert "sqrt(2)" in text, "the unit of the protocol"
    assert "≈: an estimate by importance sampling with 40 draws" in text
    assert text.endswith("Made by `pyro-stcn reproduce table1`\n")
    numbers = cells(text)[0]["notes"].split(", ")
    assert [line for line in text.splitlines() if line[:1].isdigit() and line[1] == "."] == [
        f"{number}. {note}" for number, note in zip(numbers, planned.rows[0].notes, strict=True)
    ]
    assert "THESE FIGURES MEAN NOTHING" in markdown_report(plan("table1", "strokes", OTHER, BUDGETS["tiny"]), OTHER, [])


def test_errors_are_over_sequences_of_means_over_seeds_and_single_seeds_are_shown():
    planned = plan("table1", "iamondb", SAME, SMALL, systems=("stcn-gmm",), seeds=(0, 1))
    results = made(planned, stcn_gmm=(score(0), score(1, shift=2.0)))
    (row,) = cells(markdown_report(planned, SAME, results))
    assert row["ours"] == "14.0 ± 2.1"
    assert row["single seeds"] == "13.0, 15.0"
    (line,) = lines(planned, SAME, results)
    assert (line["seeds"], line["single seeds"]) == ("0 1", "13.0 15.0")


def test_errors_of_pieces_are_over_their_recordings():
    planned = plan("table1", "blizzard", speech("blizzard"), SMALL, systems=("stcn-gmm",)) if _has_blizzard() else None
    if planned is None:
        planned = plan("table1", "timit", speech(), SMALL, systems=("stcn-gmm",))
    results = made(planned, stcn_gmm=(score(recordings=("a", "a", "b")),))
    (line,) = lines(planned, speech(), results)
    expected = Statistic.ratio(np.array(ELBO), np.ones(3), ("a", "a", "b"))
    assert float(line["standard error"]) == expected.standard_error
    assert int(line["sequences"]) == 2


def _has_blizzard():
    from pyro_stcn.data.corpora import CORPORA

    return "blizzard" in CORPORA


def test_what_is_not_run_yet_and_what_failed_are_told_apart():
    planned = plan("table1", "iamondb", SAME, SMALL, systems=("rnn-gmm", "vrnn-gmm", "stcn-gmm"))
    failed = Result(planned.rows[0], failures=("seed 0 failed, NonFiniteError: loss nan at step 7",))
    text = markdown_report(planned, SAME, [failed])
    assert [row["ours"] for row in cells(text)] == ["failed", "not run yet", "not run yet"]
    assert "2 of 3 rows have not been run yet." in text
    assert "seed 0 failed, NonFiniteError: loss nan at step 7" in text
    assert [row["status"] for row in lines(planned, SAME, [failed])] == ["failed", "not run yet", "not run yet"]
    assert [row["ours"] for row in lines(planned, SAME, [failed])] == ["", "", ""]
    assert "have not been run yet" not in markdown_report(planned, SAME, made(planned))


def test_table_2_has_the_kl_of_every_layer_beside_the_published():
    planned = plan("table2", "iamondb", SAME, SMALL)
    results = made(planned)
    table = cells(markdown_report(planned, SAME, results))
    assert [(row["model"], row["whose"]) for row in table] == [
        ("STCN-dense", "ours"),
        ("STCN-dense", "published, IAM-OnDB"),
        ("STCN", "ours"),
        ("STCN", "published, IAM-OnDB"),
    ]
    kls = ["KL", "KL1", "KL2", "KL3", "KL4", "KL5"]
    assert [table[1][name] for name in kls] == ["1,653.9", "17.9", "1,287.4", "305.3", "41", "2.4"]
    assert table[1]["value"] == "≥ 1,796.3"
    assert [table[0][name] for name in kls] == ["9.00 ± 1.73", "2.00 ± 0.58", "3.00 ± 0.58", "4.00 ± 0.58", "", ""]
    rows = {(row["model"], row["quantity"]): row for row in lines(planned, SAME, results)}
    assert len(rows) == 2 * 7
    assert float(rows["STCN-dense", "KL2"]["difference"]) == 3.0 - 1287.4
    assert rows["STCN-dense", "KL5"]["ours"] == ""
    assert float(rows["STCN", "KL"]["ours"]) == 9.0
    waiting = cells(markdown_report(planned, SAME, []))
    assert [row["value"] for row in waiting][::2] == ["not run yet"] * 2
    assert waiting[1]["KL2"] == "1,287.4"


def test_estimates_that_are_no_bounds_are_not_called_bounds():
    planned = plan("table1", "iamondb", SAME, BUDGETS["full"], systems=("stcn-dense-gmm",), as_released=True)
    figures = {"1-draw estimate": ELBO, "40-draw estimate per sequence": MANY}
    loose = Score("s", 0, Evidence.ESTIMATE, "40-draw estimate per sequence", MANY, ELBO, 1, 0.1, 9, {}, figures)
    (row,) = cells(markdown_report(planned, SAME, [Result(planned.rows[0], (loose,))]))
    assert row["figure"] == "1-draw estimate"
    assert row["is"] == "not a bound"


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "figure3"])
def test_every_table_can_be_printed_before_and_after(table):
    planned = plan(table, "strokes", OTHER, SMALL)
    for results in ([], made(planned)):
        text = markdown_report(planned, OTHER, results)
        assert text.count("\n| ") == (1 + len(planned.rows) * (2 if table == "table2" else 1))
        assert len(lines(planned, OTHER, results)) == (12 + 2 if table == "table2" else len(planned.rows))
    assert ("published" in text.split("| model")[1].split("\n")[0]) == (table not in ("figure3", "table2"))
