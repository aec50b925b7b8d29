"""Logs that were cut short or run ahead of their checkpoint are mended."""

import csv

import pytest

from pyro_stcn.logs import append_row, keep_rows_up_to


def write(path, steps):
    for step in steps:
        append_row(path, {"step": step, "loss": step / 7})


def test_rows_under_one_header(tmp_path):
    write(tmp_path / "a.csv", range(3))
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["step", "loss"], ["0", "0.0"], ["1", str(1 / 7)], ["2", str(2 / 7)]]


@pytest.mark.parametrize("torn", [b"", b"7", b"7,1.0", b"1"])
def test_what_is_kept_is_kept_to_the_byte(tmp_path, torn):
    write(tmp_path / "short.csv", range(1, 6))
    write(tmp_path / "long.csv", range(1, 9))
    log = tmp_path / "long.csv"
    log.write_bytes(log.read_bytes() + torn)
    keep_rows_up_to(log, 5)
    assert log.read_bytes() == (tmp_path / "short.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"short.csv", "long.csv"}


@pytest.mark.parametrize("content", [b"", b"step,lo"])
def test_a_log_without_a_whole_header_begins_again(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    keep_rows_up_to(tmp_path / "a.csv", 5)
    write(tmp_path / "a.csv", [6])
    assert (tmp_path / "a.csv").read_text().startswith("step,loss\n6,")


def test_no_log_stays_none(tmp_path):
    keep_rows_up_to(tmp_path / "a.csv", 5)
    assert not list(tmp_path.iterdir())
