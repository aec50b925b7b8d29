"""Nothing runs, hangs, fills the memory or writes where it should not, and each case gives one clear error.

Every case is read in a process of its own, with little memory and little time.
"""

import json
import os
import resource
import select
import signal
import sys
import traceback
from pathlib import Path

import pytest

from pyro_stcn.checkpoint import CheckpointError
from pyro_stcn.data import DataError, inspect_data

from .hostile_cases import CANARY, CASES, NOT_DATA, READERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "hostile_input.md"
SECONDS, MEGABYTES = 30, 600
LONGEST = 2000  # letters of a message
OURS = (DataError, CheckpointError)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set as Linux does")


def in_a_process_of_its_own(work):
    """What ``work`` returns, JSON-able; fails if it takes too long, or dies."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 10**6,) * 2)
            answer = work()
        except BaseException:
            answer = {"kind": "broken", "message": traceback.format_exc()}
        try:
            with open(writes, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writes)
    try:
        with open(reads) as pipe:
            if not select.select([pipe], [], [], SECONDS)[0]:
                pytest.fail(f"takes more than {SECONDS} s")
            return json.loads(pipe.read() or '{"kind": "died", "message": ""}')
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def read(case, path):
    def work():
        try:
            READERS[case.reader](path)
        except OURS as error:
            kind = next(kind for kind in OURS if isinstance(error, kind))
            return {"kind": "refused", "type": kind.__name__, "message": str(error)}
        return {"kind": "read", "message": ""}

    return in_a_process_of_its_own(work)


def check(path):
    def work():
        report = inspect_data(path)
        return {"kind": "report", "ok": report.ok, "message": str(report), "json": json.loads(report.to_json())}

    return in_a_process_of_its_own(work)


def everything_beside(folder):
    return sorted(os.listdir(folder.parent))


ALL = [(heading, case) for heading, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("heading", "case"), ALL, ids=[f"{case.reader}: {case.what}" for _, case in ALL])
def test_it_is_refused_in_one_line_or_does_nothing(heading, case, tmp_path, monkeypatch):
    folder = tmp_path / "case"
    folder.mkdir()
    path = case.make(folder)
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    before = everything_beside(folder), sorted(os.listdir(folder))
    found = read(case, path)
    checked = None if case.reader in NOT_DATA else check(path)
    assert (everything_beside(folder), sorted(os.listdir(folder))) == before
    assert not (tmp_path / CANARY).exists()
    assert os.listdir(empty) == []
    if case.harmless:
        assert found["kind"] == "read", found["message"]
    else:
        assert found["kind"] == "refused", found["message"]
        assert found["type"] == type_of(case)
        assert case.outcome in found["message"]
        assert found["message"].isprintable()
        assert str(folder) in found["message"]
        assert len(found["message"]) < LONGEST
    if checked is not None:
        assert checked["kind"] == "report", checked["message"]
        assert all(line.isprintable() for line in checked["message"].split("\n"))
        assert checked["ok"] == case.harmless, checked["message"]


def test_a_hostile_file_would_be_noticed(tmp_path):
    import pickle

    from .hostile_cases import Payload

    canary = tmp_path / CANARY
    answer = in_a_process_of_its_own(lambda: {"kind": str(pickle.loads(pickle.dumps(Payload(canary))))})
    assert canary.exists()
    assert answer["kind"] == "0"
    answer = in_a_process_of_its_own(lambda: {"kind": len(bytearray(2 * MEGABYTES * 10**6)), "message": ""})
    assert "MemoryError" in answer["message"]


def table():
    """The tables of the document."""
    lines = []
    for heading, cases in CASES.items():
        lines += [f"## {heading}", "", "| case | read by | outcome |", "|---|---|---|"]
        for case in cases:
            outcome = case.outcome if case.harmless else f"`{type_of(case)}`: … {code(case.outcome)} …"
            lines.append(f"| {case.what} | `{case.reader}` | {outcome} |")
        lines.append("")
    return "\n".join(lines)


def type_of(case):
    return {"load_model": "CheckpointError", "load_continuation": "CheckpointError"}.get(case.reader, "DataError")


def code(text):
    return f"`{text}`" if "`" not in text else text


BEGIN, END = "<!-- cases -->\n", "<!-- end of cases -->\n"


def test_the_document_lists_these_cases():
    text = DOCUMENT.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table(), "python -m tests.data.test_hostile"


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text[: text.index(BEGIN) + len(BEGIN)] + table() + text[text.index(END) :])
