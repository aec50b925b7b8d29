"""The command: what it lists, runs, writes, refuses, and how it goes on."""

import csv
import typing

import pytest
import tyro
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn import study
from pyro_stcn.cli.reproduce import Reproduce
from pyro_stcn.data import DataError, synthetic_strokes
from pyro_stcn.reproduction import BUDGETS
from pyro_stcn.study import InterruptedRunError
from pyro_stcn.tables import TABLES
from pyro_stcn.training import NonFiniteError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic_strokes(tmp_path_factory.mktemp("words"), words=(12, 4, 6))


def command(data, output, *words, rows=("rnn-gmm", "stcn-dense-gmm"), table="table1"):
    options = ["--corpus", "strokes", "--data", data, "--budget", "tiny", "--output", output]
    options += ["--rows", *rows] if rows else []
    return tyro.cli(Reproduce, args=[table, *map(str, options), *map(str, words)])


def files(output, name="table1-strokes-tiny-rnn-gmm+stcn-dense-gmm"):
    return [(output / f"{name}.{ending}").read_text() for ending in ("md", "csv")]


def test_the_choices_are_the_tables_and_the_budgets():
    hints = typing.get_type_hints(Reproduce)
    assert typing.get_args(hints["table"]) == tuple(TABLES)
    assert typing.get_args(hints["budget"]) == tuple(BUDGETS)


def test_from_one_command_to_the_printed_table(data, tmp_path, capsys):
    command(data, tmp_path).run()
    out = capsys.readouterr().out
    markdown, table = files(tmp_path)
    assert markdown in out
    assert "1 of 2: RNN (GMM): done\n2 of 2: STCN-dense (GMM): done" in out
    assert "THESE FIGURES MEAN NOTHING" in markdown
    rows = list(csv.DictReader(table.splitlines()))
    assert [(row["model"], row["status"], row["updates"]) for row in rows] == [
        ("RNN (GMM)", "done", "2"),
        ("STCN-dense (GMM)", "done", "2"),
    ]
    assert (tmp_path / "strokes" / "iamondb-rnn-gmm-small-2-0" / "score.json").exists()
    command(data, tmp_path).run()
    assert files(tmp_path) == [markdown, table]
    with pytest.raises(ValueError, match="Different: particles"):
        command(data, tmp_path, "--particles", 5).run()
    assert files(tmp_path) == [markdown, table], "what is refused replaces nothing"


def test_the_command_in_the_table_is_the_command(data, tmp_path):
    made = command(data, tmp_path / "a b", "--seeds", "1", "2", "--no-timing", "--dry-run", "--steps", "3")
    import shlex

    words = shlex.split(made.command())
    assert words[:3] == ["pyro-stcn", "reproduce", "table1"]
    assert tyro.cli(Reproduce, args=words[2:]) == made
    assert tyro.cli(Reproduce, args=["figure3"]).command() == "pyro-stcn reproduce figure3"


class Signalling(TraceMeanField_ELBO):
    """Asks to stop in the fourth update of all."""

    left = 4

    def loss_and_grads(self, *args, **kwargs):
        import signal

        type(self).left -= 1
        if type(self).left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().loss_and_grads(*args, **kwargs)


Signalling.__name__ = "TraceMeanField_ELBO"


def test_cut_short_it_says_how_to_go_on_and_ends_with_the_same_table(data, tmp_path, monkeypatch):
    whole = command(data, tmp_path / "whole", "--steps", 3)
    whole.run()
    parts = command(data, tmp_path / "parts", "--steps", 3)
    with monkeypatch.context() as patch:
        patch.setattr(study, "TraceMeanField_ELBO", Signalling)
        with pytest.raises(InterruptedRunError) as caught:
            parts.run()
    assert str(caught.value).endswith(f"To go on:\n  {parts.command()}")
    name = "table1-strokes-tiny-3-rnn-gmm+stcn-dense-gmm"
    assert "1 of 2 rows have not been run yet." in files(tmp_path / "parts", name)[0]
    parts.run()
    made, expected = files(tmp_path / "parts", name), files(tmp_path / "whole", name)
    assert made[1] == expected[1]
    assert made[0].replace(parts.command(), "") == expected[0].replace(whole.command(), "")


def test_a_failed_row_makes_the_exit_code_1_and_is_in_the_table(data, tmp_path, monkeypatch, capsys):
    fit = study.fit

    def failing(net, *args, **kwargs):
        if type(net).__name__ == "RNN":
            raise NonFiniteError("loss nan at step 1")
        return fit(net, *args, **kwargs)

    monkeypatch.setattr(study, "fit", failing)
    with pytest.raises(SystemExit) as caught:
        command(data, tmp_path).run()
    assert caught.value.code == 1
    said = capsys.readouterr()
    assert "1 of 2 rows failed: RNN (GMM)" in said.err
    assert "NonFiniteError: loss nan at step 1" in said.out
    assert [row["status"] for row in csv.DictReader(files(tmp_path)[1].splitlines())] == ["failed", "done"]


@pytest.mark.parametrize("timing", ["--timing", "--no-timing"])
def test_a_dry_run_lists_and_trains_nothing(data, tmp_path, capsys, timing):
    command(data, tmp_path / "runs", "--dry-run", timing, rows=("rnn-gmm",)).run()
    out = capsys.readouterr().out
    assert "| RNN (GMM) | iamondb/rnn-gmm-small | 109,530 | 2 MiB | 2 | 1 |" in out
    assert "1 run, about" in out
    assert ("roughly" in out) == (timing == "--no-timing")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_the_papers_sizes_needs_no_gpu(data, capsys):
    tyro.cli(
        Reproduce,
        args=["table3", "--corpus", "strokes", "--data", str(data), "--dry-run", "--no-timing"],
    ).run()
    assert "| 5x512-LadderRNN-dense (GMM) | iamondb/5x512-ladderrnn-dense-gmm | 21,293,405 |" in capsys.readouterr().out


def test_figure_3_is_a_picture_and_a_table_of_its_models(data, tmp_path, capsys):
    command(data, tmp_path, "--lines", 3, rows=(), table="figure3").run()
    out = capsys.readouterr().out
    assert (tmp_path / "figure3-strokes-tiny.png").stat().st_size > 1000
    svg = (tmp_path / "figure3-strokes-tiny.svg").read_text()
    assert "<svg" in svg
    assert all(f"| {name} |" in out for name in ("VRNN", "SWaveNet", "STCN-dense"))
    assert "Lines of seed 0" in out


def test_figure_3_takes_the_runs_of_table_1(data, tmp_path, monkeypatch):
    rows = ("vrnn-gmm", "swavenet-normal", "stcn-dense-gmm")
    command(data, tmp_path, rows=rows).run()
    monkeypatch.setattr(study, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    command(data, tmp_path, rows=rows, table="figure3").run()


def test_weights_are_found_in_what_another_reproduction_left(data, tmp_path, monkeypatch):
    command(data, tmp_path / "one", rows=("rnn-gmm",)).run()
    monkeypatch.setattr(study, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    for weights in (tmp_path / "one", tmp_path / "one" / "strokes"):
        output = tmp_path / f"from {weights.name}"
        command(data, output, "--weights", weights, "--particles", 3, rows=("rnn-gmm",)).run()
        assert "weights loaded from best.safetensors" in files(output, "table1-strokes-tiny-k3-rnn-gmm")[0]


def test_table_2_prints_kls(data, tmp_path, capsys):
    command(data, tmp_path, rows=(), table="table2").run()
    assert "| STCN | published, IAM-OnDB | ELBO | ≥ 1,339.2 | 964.2 | 846 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["figure3", "--corpus", "timit"], DataError, "picture of handwriting; it can be made of: iamondb"),
        (["table2", "--corpus", "deepwriting"], DataError, "no column for it"),
        (["table1", "--corpus", "librispeech"], DataError, "no kind of corpus 'librispeech'"),
        (["table1", "--corpus", "strokes", "--rows", "srnn-normal"], ValueError, "no row 'srnn-normal'"),
        (["table1", "--corpus", "strokes", "--steps", "0"], ValueError, "at least 1"),
        (["figure3", "--corpus", "strokes", "--lines", "0"], ValueError, "--lines must be at least 1"),
        (["table1", "--corpus", "strokes", "--device", "abacus"], ValueError, "--device abacus: "),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, monkeypatch, words, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        tyro.cli(Reproduce, args=words).run()
    assert not (tmp_path / "runs").exists()
