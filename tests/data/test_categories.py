import numpy as np
import pytest
import torch

from pyro_stcn.data import DataError, StepKind, load_categories

WORDS = ["abba", "cab", "bc", "aa", "cc c"]


def labels(corpus):
    parts = (corpus.train, corpus.valid, corpus.test)
    return {n: corpus.raw.undo(x).tolist() for part in parts for n, x in zip(part.names, part.sequences, strict=True)}


def test_text_by_the_character(tmp_path):
    corpus = load_categories(WORDS, name="words")
    assert (corpus.kind, corpus.channels, corpus.data_dim) == (StepKind.CATEGORIES, (" ", "a", "b", "c"), 4)
    assert labels(corpus) == {str(i): list(word) for i, word in enumerate(WORDS)}
    assert all((x.sum(1) == 1).all() for x in corpus.train.sequences)
    assert "Categories, words: 4, from ' ' to 'c'." in corpus.description
    (tmp_path / "words.txt").write_text("\n".join(WORDS[:2]) + "\n\n" + "\n".join(WORDS[2:]))
    found = labels(load_categories(tmp_path / "words.txt"))
    assert list(map("".join, (found[f"words/{n}"] for n in (1, 2, 4, 5, 6)))) == WORDS


def test_numbers_are_in_their_order_and_arrays_of_any_kind_are_read(tmp_path):
    sequences = [np.array([10, 9, -1]), torch.tensor([9, 9]), [10], (9, "10"), np.array([True, False])]
    corpus = load_categories(sequences)
    assert corpus.channels == ("-1", "0", "1", "9", "10")
    assert labels(corpus)["0"] == ["10", "9", "-1"]
    stack = np.arange(12).reshape(4, 3)
    np.save(tmp_path / "stack.npy", stack)
    np.savez(tmp_path / "some.npz", a=stack[0], b=np.array(["x", "y"]), c=stack[1])
    for given in (stack, torch.tensor(stack), tmp_path / "stack.npy"):
        assert sorted(labels(load_categories(given)).values()) == sorted(stack.astype(str).tolist())
    found = labels(load_categories([tmp_path / "stack.npy", tmp_path / "some.npz"]))
    assert found["some/b"] == ["x", "y"]
    assert len(labels(load_categories(tmp_path))) == 7


def test_what_looks_like_a_number_and_is_none_is_text():
    assert load_categories([["--5", "5"], ["5", "--5"], ["-5", "5"]]).channels == ("--5", "-5", "5")


def test_truth_is_one_in_lists_and_arrays():
    corpus = load_categories([[True, False]], [np.array([True, False])], [[0, 1]])
    assert corpus.channels == ("0", "1")
    assert corpus.train[0].tolist() == corpus.valid[0].tolist() == [[0, 1], [1, 0]]


def test_a_line_ends_where_a_line_ends(tmp_path):
    (tmp_path / "t.txt").write_bytes("ab\x0cb\u2028a\r\n\nba\nab".encode())
    corpus = load_categories(tmp_path / "t.txt")
    names = sorted(name for part in (corpus.train, corpus.valid, corpus.test) for name in part.names)
    assert names == ["t/1", "t/3", "t/4"]
    assert "\x0c" in corpus.channels


def test_a_table_of_labels_and_its_way_back(tmp_path):
    rows = [(who, label) for who, word in zip("vwxyz", WORDS, strict=True) for label in word]
    (tmp_path / "t.csv").write_text("who,state\n" + "".join(f"{who},{label}\n" for who, label in rows))
    for options in ({"sequence_column": "who"}, {"sequence_column": "who", "column": "state"}):
        found = labels(load_categories(tmp_path / "t.csv", **options))
        assert {name[-1]: "".join(word) for name, word in found.items()} == dict(zip("vwxyz", WORDS, strict=True))
    corpus = load_categories(["a,b\n", 'x"y', "\n a"])
    paths = corpus.raw.write(tmp_path / "out", "made", corpus.train.sequences)
    again = load_categories(paths, paths, paths)
    assert again.raw.undo(again.train[0]).tolist() == corpus.raw.undo(corpus.train[0]).tolist()
    for text, options, message in (
        ("a\nb\n", {"column": "c"}, "0 columns are named 'c' among a"),
        ("who,state\nx,a\n", {}, "has the columns who, state: say which holds the labels"),
        ("state\na\n\nb,c\n", {}, "line 4 has 2 cells and the header has 1"),
        ("who,state\nx,\n", {"column": "state"}, "line 2 has no label"),
        ("who,state\n,a\n", {"sequence_column": "who"}, "line 2 has no sequence"),
        ("a\nb\na\n", {}, "the first row says 'a', which is also a label"),
        ("state\n", {}, "has a header and no rows"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            load_categories(tmp_path / "bad.csv", **options)


def test_labels_that_are_only_in_another_part_are_known_and_said():
    corpus = load_categories(["abab"], ["ba"], ["abz", "abab"])
    assert corpus.channels == ("a", "b", "z")
    assert "1 of them are not in the training part: 'z'." in corpus.description
    assert "Their frequencies alone are worth -0.693 nats per step" in corpus.description
    assert "1 sequences of test are also in the training part" in corpus.description


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([np.array([0.5, 1.0])] * 3, {}, r"train: sequence 0 has shape \(2,\), dtype float64.*load_arrays"),
        ([[1, 2.5]] * 3, {}, "sequence 0 holds 2.5, which is no label"),
        ([["a", ""]] * 3, {}, "sequence 0 holds '', which is no label"),
        ([[1, None]] * 3, {}, "holds None"),
        (["aa", "a", "aaa"], {}, r"there are 1 different labels \('a' ...\): expected 2 to 1024"),
        ([list(range(50))] * 3, {"max_categories": 40}, "there are 50 different labels"),
        (["ab", "", "a"], {}, "train: sequence '1' is empty: leave it out"),
        ([], {}, "train is a list: expected a list of strings"),
        (3, {}, "train is a int"),
        (["ab", 3, "a"], {}, "sequence 1 is a int"),
        (["ab" * 100] * 3, {"max_bytes": 1000}, "600 steps of 2 categories need 4800 bytes"),
        ("/nowhere/a.txt", {}, "does not exist"),
        (["ab", "ba"], {}, "train has 2 sequences"),
    ],
)
def test_what_is_no_set_of_labels(given, options, message):
    with pytest.raises(DataError, match=message):
        load_categories(given, **options)


def test_files_that_are_not_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no file that is read"):
        load_categories(tmp_path)
    with pytest.raises(DataError, match="a.wav: expected .txt"):
        load_categories(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read as text in UTF-8"):
        load_categories(tmp_path)
    with pytest.raises(DataError, match="has 3 bytes, and max_bytes is 2"):
        load_categories(tmp_path, max_bytes=2)
