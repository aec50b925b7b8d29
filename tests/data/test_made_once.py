import pytest

from pyro_stcn.data.made_once import make_folder_once


def test_a_folder_is_made_once(tmp_path):
    root = tmp_path / "a" / "b"
    make_folder_once(root, lambda folder: (folder / "x").write_text("first"))
    make_folder_once(root, lambda folder: pytest.fail("made again"))
    assert (root / "x").read_text() == "first"
    assert root.stat().st_mode & 0o777 == 0o755
    assert list(root.parent.iterdir()) == [root]


def test_a_folder_that_was_not_finished_is_not_there(tmp_path):
    def stop(folder):
        (folder / "x").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_folder_once(tmp_path / "a", stop)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_who_make_a_folder_wins(tmp_path):
    root = tmp_path / "a"

    def overtaken(folder):
        make_folder_once(root, lambda other: (other / "x").write_text("first"))
        (folder / "x").write_text("second")

    make_folder_once(root, overtaken)
    assert (root / "x").read_text() == "first"
    assert list(tmp_path.iterdir()) == [root]


def test_an_error_of_writing_is_not_taken_for_that(tmp_path):
    def full(folder):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make_folder_once(tmp_path / "a", full)
