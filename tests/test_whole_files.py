"""Files that are there whole or not at all."""

import json
import os

import pytest

from pyro_stcn.whole_files import replacing, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as unfinished:
        unfinished.write_text("one")
        assert not path.exists()

    def stop(unfinished):
        unfinished.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        stop(unfinished)
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_its_permissions_are_those_of_any_other_new_file(tmp_path):
    (tmp_path / "other").write_text("")
    write_json(tmp_path / "x.json", [1])
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_block_that_writes_nothing_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_json_holds_what_was_given_and_no_number_that_json_does_not_have(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [0.1, "ä"]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [0.1, "ä"]}
