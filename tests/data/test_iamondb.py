"""IAM-OnDB: offsets and pen bits against a computation by hand, lists and splits, and files nobody should trust."""

import itertools
import math
import os
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from pyro.infer import Trace_ELBO

from pyro_stcn.data import HeldOut
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.iamondb import load_iamondb
from pyro_stcn.data.iamondb_files import _Reader, find_strokes, read_forms, read_line
from pyro_stcn.data.stroke_files import PARTS
from pyro_stcn.data.strokes import StrokeNormaliser
from pyro_stcn.data.synthetic_iamondb import synthetic_iamondb
from pyro_stcn.evaluation import evaluate
from pyro_stcn.observation import GaussianMixtureConfig, PenStrokeConfig
from pyro_stcn.training import TrainingConfig, fit

from ..small import small_stcn

HEAD = '<?xml version="1.0" encoding="ISO-8859-1"?>\n'
STROKES = [[(10, 20), (13, 24)], [(20, 20)], [(21, 18), (25, 18), (25, 30)]]
STEPS = [(3, -4, 1), (7, 4, 1), (1, 2, 0), (4, 0, 0), (0, -12, 1)]  # y upwards, and the pen of the later point


def points(*pairs):
    return "".join(f'<Point x="{x}" y="{y}" time="1.5"/>\n' for x, y in pairs)


def stroke(inside):
    return f'<Stroke colour="black" start_time="1.0" end_time="2.0">\n{inside}</Stroke>\n'


def document(inside, head=HEAD):
    description = '<WhiteboardDescription><SensorLocation corner="top_left"/></WhiteboardDescription>'
    return f"{head}<WhiteboardCaptureSession>{description}<StrokeSet>\n{inside}</StrokeSet></WhiteboardCaptureSession>"


GOOD = document("".join(stroke(points(*s)) for s in STROKES))


def put(root, name, text=GOOD):
    """A file where the layout has it; ``name`` is "a01-000u-01"."""
    path = root / "lineStrokes" / name[:3] / name[:7] / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("latin1"))
    return path


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return synthetic_iamondb(tmp_path_factory.mktemp("cache"), forms=(13, 5, 4), lines=2)


@pytest.fixture
def small(tmp_path):
    """Forms of three texts to train on and one to validate on."""
    for name in ("a01-000u-01", "a01-000u-02", "a01-020-01", "a01-020x-01", "b02-111z-01", "c03-007w-01"):
        put(tmp_path, name)
    (tmp_path / "train.txt").write_text(" a01-000u\n a01-020\n a01-020x\n b02-111z\n")
    (tmp_path / "valid.txt").write_text("c03-007w\n")
    return tmp_path


def forms_of(dataset):
    return {name.rpartition("-")[0] for name in dataset.names}


def raw(corpus, part):
    return [corpus.standardiser.invert(s) for s in getattr(corpus, part).sequences]


# What is read


def test_a_line_computed_by_hand(tmp_path):
    line = read_line(put(tmp_path, "a01-000u-01"), 2**20)
    np.testing.assert_array_equal(line.steps, STEPS)
    assert (line.name, line.steps.dtype, line.empty, line.origin) == ("a01-000u-01", np.float32, 0, None)


def by_hand(path):
    """The steps of a file, a point at a time."""
    places = [
        (float(p.get("x")), -float(p.get("y")), float(p is s[-1])) for s in ET.parse(path).iter("Stroke") for p in s
    ]
    return [(x - px, y - py, pen) for (px, py, _), (x, y, pen) in itertools.pairwise(places)]


def test_the_synthetic_corpus_is_read_as_it_was_written(synthetic):
    corpus = load_iamondb(synthetic, test=synthetic / "test.txt")
    assert (corpus.name, corpus.data_dim, corpus.sample_rate, corpus.frame) == ("synthetic-iamondb", 3, None, None)
    assert "Synthetic lines in the format of IAM-OnDB, not handwriting: 44 lines of 22 forms." in corpus.description
    for part in PARTS:
        names = getattr(corpus, part).names
        ids = (synthetic / f"{part}.txt").read_text().split()
        assert names == tuple(f"{i}-{n:02d}" for i in ids for n in (1, 2)), "in the order of the list"
        for name, x in zip(names, raw(corpus, part), strict=True):
            path = synthetic / "lineStrokes" / name[:3] / name[:7] / f"{name}.xml"
            steps = by_hand(path)
            np.testing.assert_allclose(x, steps, atol=1e-3)
            assert len(steps) == path.read_text().count("<Point") - 1
            assert x[:, 2].sum() == path.read_text().count("<Stroke ")
            assert x[:, 0].sum() > 300, "three words, to the right"
    assert corpus.train.lengths.mean() > 100


def test_letters_stand_upright(synthetic):
    """A bar of a "t" and the dot of an "i" are written last and above: y grows upwards."""
    steps = np.concatenate(raw(load_iamondb(synthetic), "train"))
    lifted = steps[1:][steps[:-1, 2] == 1]
    assert np.mean(lifted[lifted[:, 0] < 0][:, 1]) > 0, "back to a dot or a bar is upwards"


@pytest.mark.parametrize("normaliser", list(StrokeNormaliser))
def test_the_unit_of_each_normaliser(synthetic, normaliser):
    corpus = load_iamondb(synthetic, normaliser=normaliser)
    steps = np.array([s for name in corpus.train.names for s in by_hand(find(synthetic, name))])
    dx, dy = steps[:, 0], steps[:, 1]
    if normaliser is StrokeNormaliser.CHUNG:
        mean = dx.sum() / len(dx) + dy.sum() / len(dy)
        std = math.sqrt((dx**2 + dy**2).sum() / len(dx) - mean**2)
        means, stds = (mean, mean, 0), (std, std, 1)
        assert "Standardised as by Chung et al. 2015" in corpus.description
    else:
        means, stds = (dx.mean(), dy.mean(), 0), (dx.std(), dy.std(), 1)
        assert "Standardised with the means" in corpus.description
    np.testing.assert_allclose(corpus.standardiser.mean, means, rtol=1e-9)
    np.testing.assert_allclose(corpus.standardiser.std, stds, rtol=1e-9)
    assert set(np.concatenate(corpus.valid.sequences)[:, 2]) == {0.0, 1.0}


def find(root, name):
    return root / "lineStrokes" / name[:3] / name[:7] / f"{name}.xml"


def test_published_is_the_default(synthetic):
    corpus = load_iamondb(synthetic)
    assert corpus.standardiser.mean[0] == corpus.standardiser.mean[1]
    assert "published figures are of the whole of Chung et al.'s valid.txt" in corpus.description
    assert "Valid: the whole of valid.txt" in corpus.description


# Lists


def test_an_id_is_that_form_alone(small):
    strokes = find_strokes(small)
    assert find_strokes(strokes) == strokes
    (form,) = read_forms(["a01-020"], "train", strokes).forms
    assert (form.name, form.text, [p.name for p in form.lines]) == ("a01-020", "a01-020", ["a01-020-01.xml"])
    (form,) = read_forms(["a01-020x"], "train", strokes).forms
    assert (form.name, form.text, [p.name for p in form.lines]) == ("a01-020x", "a01-020", ["a01-020x-01.xml"])


def test_an_id_without_its_letter(small):
    listed = read_forms(["a01-000"], "train", find_strokes(small))
    assert [form.name for form in listed.forms] == ["a01-000u"]
    assert "1 ids without a letter in the list given as train stand for" in listed.remarks[0]
    put(small, "a01-000w-01")
    with pytest.raises(DataError, match="entry 0, 'a01-000': there are a01-000u, a01-000w in .*letter belongs to the"):
        read_forms(["a01-000"], "train", find_strokes(small))
    with pytest.raises(DataError, match="'a01-020q': there are a01-020, a01-020x in"):
        read_forms(["a01-020q"], "train", find_strokes(small))


def test_lists_as_files_and_as_sequences(small):
    (small / "odd.txt").write_bytes("\ufeff  a01-000u \r\n\r\na01-020\r\na01-000u\r\n".encode())
    listed = read_forms(small / "odd.txt", "train", find_strokes(small))
    assert [form.name for form in listed.forms] == ["a01-000u", "a01-020"]
    assert listed.remarks == ("1 forms are in odd.txt more than once and are used once.",)
    corpus = load_iamondb(small, train=("a01-020", "a01-000u"), valid=str(small / "valid.txt"), test=["b02-111z"])
    assert corpus.train.names == ("a01-020-01", "a01-000u-01", "a01-000u-02")
    assert "Test: the list given as test" in corpus.description


def test_lines_are_in_the_order_of_their_numbers(small):
    for number in ("10", "03", "101"):
        put(small, f"a01-000u-{number}")
    for stray in ("a01-000u-04.xml.bak", "._a01-000u-05.xml", "a01-000u-06.tif", "a01-000u-x.xml"):
        (small / "lineStrokes/a01/a01-000" / stray).write_bytes(b"not a line")
    (form,) = read_forms(["a01-000u"], "train", find_strokes(small)).forms
    assert [p.stem[-3:].lstrip("-") for p in form.lines] == ["01", "02", "03", "10", "101"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("nowhere.txt", "nowhere.txt: is not a file: give a list of forms"),
        ("", "list.txt: holds no form"),
        ("\n \n", "list.txt: holds no form"),
        ("a01-000u\nb02-111\nx09-999\n", "no lines of line 3, 'x09-999': nothing is in .*x09-999: complete the folder"),
        ("x09-998\nx09-999\n", r"\(the first of 2 such forms out of 2\)"),
        ("a01-000u\na01-000u-01\n", "list.txt: line 2 is 'a01-000u-01', not a form's id"),
        ("../../../etc\n", "line 1 is '../../../etc', not a form's id"),
        ("a01-٠٠٠\n", "not a form's id"),
        ("a" * 2**21, "has more than 1048576 bytes"),
        (["a01-000u", 7], "the list given as train: entry 1 is '7', not a form's id"),
        ([], "the list given as train: holds no form"),
        (["a01-000u", "c03-007w"], "1 forms, such as 'c03-007w', are in the list given as train and in .*valid.txt"),
        (["a01-000u", "c03-007"], "1 forms, such as 'c03-007w', are in"),
    ],
)
def test_lists_that_do_not_fit(small, train, message):
    if isinstance(train, str):
        path = small / "list.txt"
        path.write_text(train)
        train = small / train if train == "nowhere.txt" else path
    with pytest.raises(DataError, match=message):
        load_iamondb(small, train=train)


def test_there_must_be_a_corpus(tmp_path):
    with pytest.raises(DataError, match="is not a folder: give the folder that holds lineStrokes"):
        load_iamondb(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no folder lineStrokes in it"):
        load_iamondb(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 0}, "test_fraction is 0"),
        ({"test_fraction": 1.0}, "test_fraction is 1"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"held_out": "test"}, "HeldOut"),
        ({"normaliser": "x"}, "StrokeNorm"),
    ],
)
def test_arguments_that_fit_nothing(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_iamondb(small, **arguments)


# Splits


@pytest.mark.parametrize("held_out", list(HeldOut))
def test_the_test_part_is_held_out_by_text(synthetic, held_out):
    ids = {part: set((synthetic / f"{part}.txt").read_text().split()) for part in PARTS}
    chosen = set()
    for seed in range(4):
        corpus = load_iamondb(synthetic, held_out=held_out, test_fraction=0.4, seed=seed)
        forms = {part: forms_of(getattr(corpus, part)) for part in PARTS}
        other = ({"train", "valid"} - {held_out.value}).pop()
        assert forms[other] == ids[other], "the other part is the whole of its list"
        assert forms["test"] | forms[held_out.value] == ids[held_out.value]
        assert not forms["test"] & (forms["train"] | forms["valid"])
        assert not {f[:7] for f in forms["test"]} & {f[:7] for f in forms[held_out.value]}, "no text in both"
        assert f"forms held out of {held_out}.txt" in corpus.description
        assert f"seed {seed}" in corpus.description
        assert "No form is in two parts. Who wrote what was not given" in corpus.description
        chosen.add(frozenset(forms["test"]))
    assert len(chosen) > 1
    again = load_iamondb(synthetic, held_out=held_out, test_fraction=0.4, seed=3)
    assert again.test.digest() == corpus.test.digest()


def test_the_test_part_is_held_out_by_writer(synthetic):
    ids = [i for part in ("train", "valid") for i in (synthetic / f"{part}.txt").read_text().split()]
    writers = {name: f"writer {i % 4}" for i, name in enumerate(ids)}
    corpus = load_iamondb(synthetic, writers=writers, test_fraction=0.3)
    who = {part: {writers[f] for f in forms_of(getattr(corpus, part))} for part in PARTS}
    assert len(who["test"]) == 1
    assert not who["test"] & who["train"]
    assert "1 of its 4 writers" in corpus.description
    shared = len(who["valid"] & who["train"])
    assert f"{shared} of {len(who['valid'])} in valid and 0 of 1 in test" in corpus.description
    del writers[ids[0]]
    with pytest.raises(DataError, match=f"1 forms of .*train.txt, such as '{ids[0]}', are not in writers"):
        load_iamondb(synthetic, writers=writers)


def test_a_list_for_the_test_takes_its_forms_out_of_the_others(small):
    corpus = load_iamondb(small, test=["a01-020", "b02-111z"])
    assert forms_of(corpus.train) == {"a01-000u", "a01-020x"}
    assert forms_of(corpus.test) == {"a01-020", "b02-111z"}
    assert "taken out of the other lists, 2 of train and 0 of valid" in corpus.description
    assert "Texts that are also in the training part: 0 of 1 in valid and 1 of 2 in test" in corpus.description
    with pytest.raises(DataError, match="valid.txt: all 1 forms of valid are also in the list given as test"):
        load_iamondb(small, test=["c03-007w"])


def test_one_text_cannot_be_split(small):
    with pytest.raises(DataError, match="valid.txt: has forms of 1 texts, not enough to hold out one"):
        load_iamondb(small, held_out="valid")


# What is odd


def test_what_is_odd_is_described_and_kept(small):
    jump = [(0, 0), *((i, i % 3) for i in range(1, 600)), (9_000_000, 0)]
    put(small, "a01-000u-02", document(stroke(points(*jump)) + stroke("")))
    put(small, "a01-000u-03", document(stroke(points(*((i % 7, i % 5) for i in range(300))))))
    put(small, "c03-007w-01", document(stroke(points((1, 2), (3, 5)))))
    corpus = load_iamondb(small, test=["b02-111z"])
    assert sum(len(getattr(corpus, part)) for part in PARTS) == 7
    median = np.median(corpus.train.lengths)
    assert (
        f"up to {median:g} steps; 2 longer than 5 times that, the longest 'a01-000u-02' with 600" in corpus.description
    )
    for fact in (
        "1 offsets are beyond 20 standard deviations",
        "is dx at step 599 of 'a01-000u-02'",
        "1 strokes without a point were passed over",
        "Also in the training part, point for point: 0 of valid and 1 of test.",
        "Offsets are whole numbers",
    ):
        assert fact in corpus.description
    put(small, "a01-020-01", document(stroke(points(*((i % 7, i % 5) for i in range(300))))))
    put(small, "a01-020x-01", document(stroke(points(*((i % 7, i % 5) for i in range(300))))))
    corpus = load_iamondb(small, test=["b02-111z"])
    assert "3 shorter than 0.1 times that, the shortest 'c03-007w-01' with 1" in corpus.description


# Files that are damaged, or made to do harm


def laughs(levels=12):
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, levels)]
    return document(f"<Text>&a{levels - 1};</Text>", f"{HEAD}<!DOCTYPE lolz [{''.join(entities)}]>\n")


def quadratic():
    return document(f"<Text>{'&a;' * 50000}</Text>", f'{HEAD}<!DOCTYPE a [<!ENTITY a "{"x" * 50000}">]>\n')


def external(path):
    return document("<Text>&a;</Text>", f'{HEAD}<!DOCTYPE a [<!ENTITY a SYSTEM "file://{path}">]>\n')


PARAMETER = document(
    stroke(points((1, 2), (3, 4))), f'{HEAD}<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///dev/zero"> %p;]>'
)
ATTRIBUTE = document(
    stroke('<Point x="&a;" y="1"/>'), f'{HEAD}<!DOCTYPE a [<!ENTITY a "1"><!ENTITY b "{"&a;" * 1000}">]>'
)
ENCODED = document(stroke(points((1, 2), (3, 4))), '<?xml version="1.0" encoding="{}"?>\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(), "declares a document type or an entity"),
        (quadratic(), "declares a document type or an entity"),
        (external("/etc/hostname"), "declares a document type or an entity"),
        (external("/dev/zero"), "declares a document type or an entity"),
        (PARAMETER, "declares a document type or an entity"),
        (ATTRIBUTE, "declares a document type or an entity"),
        (document("", f'{HEAD}<!DOCTYPE a SYSTEM "http://localhost:1/a.dtd">'), "declares a document type"),
        (laughs().encode("utf-16"), "holds zero bytes"),
        (document("<Text>&undeclared;</Text>"), "undefined entity"),
        ("", "is empty"),
        (" \r\n\t ", "is empty"),
        (HEAD, "truncated or damaged.*no element found"),
        (GOOD[: len(GOOD) // 2], "truncated or damaged, or not XML .*line"),
        (GOOD[:-3], "truncated or damaged"),
        (GOOD + GOOD, "truncated or damaged.*(not at start|junk after)"),
        (GOOD.replace('x="13"', "x=13"), "truncated or damaged, or not XML .*line 5"),
        (b"II*\x01\x08\xff\xfe pixels", "truncated or damaged, or not XML"),
        (b"\x1f\x8b\x08\x01 packed", "truncated or damaged, or not XML"),
        ("a01-000u\na01-001u\n", "truncated or damaged, or not XML"),
        ("<html><body>Please register</body></html>", "line 1: <html> is not a line of IAM-OnDB"),
        (f"<{'a' * 10**6}/>", f"<{'a' * 40}> is not a line of IAM-OnDB"),
        (document("").replace("StrokeSet", "Transcription"), "holds 0 strokes with 0 points, and an offset needs two"),
        (document(""), "holds 0 strokes with 0 points"),
        (document(stroke("") * 3), "holds 3 strokes with 0 points"),
        (document(stroke(points((1, 2)))), "holds 1 strokes with 1 points.*moving it to another folder"),
        (document(points((1, 2))), "line 3: <Point> is in <StrokeSet>, expected <StrokeSet> <Stroke> <Point>"),
        (document(stroke(stroke(points((1, 2))))), "line 4: <Stroke> is in <Stroke>"),
        (document("<a>" * 10**5), "<a> is in 16 elements, and a point in 3"),
        (document(stroke(points((1, 2), ("nan", 3)))), "line 5: stroke 0, point 1 has x 'nan', not a number between"),
        (document(stroke(points((1, 2))) + stroke(points((3, "-inf")))), "line 7: stroke 1, point 0 has y '-inf'"),
        (document(stroke(points((1, 2), (3, 1e300)))), "stroke 0, point 1 has y '1e.300', not a number between"),
        (document(stroke(points((1, 2), (3, 2**24 + 1)))), "has y '16777217', not a number between -2.24 and 2.24"),
        (document(stroke(points((1, "")))), "stroke 0, point 0 has y ''"),
        (document(stroke(points(("1_0", 1)))), "stroke 0, point 0 has x '1_0'"),
        (document(stroke(points(("&#1633;", 1)))), "stroke 0, point 0 has x '\u0661'"),
        (document(stroke(points(("9" * 10**6, 1)))), f"has x '{'9' * 40}'"),
        (document(stroke("<Point/>")), "stroke 0, point 0 has no x"),
        (document(stroke('<Point x="1" time="3"/>')), "stroke 0, point 0 has no y"),
        (GOOD + " " * 2**20, "has more than 1048576 bytes: raise max_bytes"),
        *((ENCODED.format(e), "truncated or damaged, or not XML") for e in ("rot13", "zip", "utf-7", "cp037", "idna")),
        (ENCODED.format("undefined"), "truncated or damaged, or not XML"),
        (ENCODED.format("x" * 5000), "truncated or damaged, or not XML"),
        (ENCODED.format("utf-16"), "truncated or damaged, or not XML"),
        (document("<Text>\xff</Text>", ""), "truncated or damaged, or not XML"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    path = put(tmp_path, "a01-000u-01", text)
    with pytest.raises(DataError, match=f"a01-000u-01.xml: .*{message}") as error:
        read_line(path, 2**20)
    assert len(str(error.value)) < 1000
    assert len(str(error.value).split(": ")) >= 3, "file, what was found, and the way out"


def test_the_parser_refuses_declarations_by_itself(tmp_path):
    """Should the look at the bytes ever miss one."""

    for text in (laughs(3), external("/etc/hostname"), document("", f'{HEAD}<!DOCTYPE a SYSTEM "a.dtd">')):
        reader = _Reader(tmp_path / "a.xml")
        with pytest.raises(DataError, match="declares a document type"):
            reader.parser.Parse(text.encode(), True)


def test_what_is_no_file(tmp_path):
    folder = tmp_path / "a01-000u-01.xml"
    folder.mkdir()
    with pytest.raises(DataError, match="is not a regular file"):
        read_line(folder, 2**20)
    os.mkfifo(tmp_path / "pipe.xml")  # reading it would wait for ever
    with pytest.raises(DataError, match="is not a regular file"):
        read_line(tmp_path / "pipe.xml", 2**20)
    with pytest.raises(DataError, match="is not a regular file"):
        read_line(tmp_path / "nowhere.xml", 2**20)


def test_damaged_files_are_counted(small):
    put(small, "a01-000u-02", "")
    with pytest.raises(DataError, match="a01-000u-02.xml: is empty: [^(]*$"):
        load_iamondb(small)
    put(small, "b02-111z-01", GOOD[:-5])
    with pytest.raises(DataError, match=r"a01-000u-02.xml: is empty.*\(2 of 6 files cannot be used, this is the first"):
        load_iamondb(small)


def test_an_axis_that_never_moves(small):
    for path in small.rglob("*.xml"):
        path.write_text(document(stroke(points((1, 2), (3, 2), (4, 2)))))
    with pytest.raises(DataError, match="the training part cannot be standardised: dy never change"):
        load_iamondb(small)


# The synthetic corpus


def test_equal_arguments_give_equal_bytes(tmp_path):
    def files(root):
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    first = files(synthetic_iamondb(tmp_path / "a", forms=(3, 1, 1), lines=1, seed=5))
    assert files(synthetic_iamondb(tmp_path / "b", forms=(3, 1, 1), lines=1, seed=5)) == first
    more = files(synthetic_iamondb(tmp_path, forms=(4, 1, 1), lines=2, seed=5))
    assert first.items() - more.items() == {("train.txt", first["train.txt"])}
    other = files(synthetic_iamondb(tmp_path, forms=(3, 1, 1), lines=1, seed=6))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".xml"))


def test_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_STCN_CACHE", str(tmp_path / "here"))
    root = synthetic_iamondb(forms=(2, 1, 1), lines=1)
    assert list((tmp_path / "here").iterdir()) == [root]
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[synthetic_iamondb.__module__], "write_word", lambda *_: pytest.fail("made again"))
        assert synthetic_iamondb(forms=(2, 1, 1), lines=1) == root
    next(root.rglob("*.xml")).unlink()
    with pytest.raises(DataError, match="6 of 7 files are there: remove the folder"):
        synthetic_iamondb(forms=(2, 1, 1), lines=1)
    for arguments in ({"forms": (1, 0, 1)}, {"forms": (101, 1, 1)}, {"lines": 0}, {"lines": 100}, {"seed": -1}):
        with pytest.raises(ValueError, match="from 1 to 100 forms"):
            synthetic_iamondb(**arguments)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[synthetic_iamondb.__module__], "_xml", stop)
    with pytest.raises(KeyboardInterrupt):
        synthetic_iamondb(tmp_path, forms=(1, 1, 1), lines=1)
    assert list(tmp_path.iterdir()) == []


def test_training_and_evaluating_on_it(tmp_path):
    corpus = load_iamondb(synthetic_iamondb(tmp_path, forms=(4, 1, 1), lines=1))
    net = small_stcn(data_dim=3, observation=PenStrokeConfig(GaussianMixtureConfig(2)))
    config = TrainingConfig(steps=2, batch_size=2, evaluate_every=2, log_every=1)
    result = fit(
        net, corpus.train, corpus.valid, elbo=Trace_ELBO(), config=config, folder=tmp_path / "run", progress=False
    )
    assert result.step == 2
    found = evaluate(net, corpus.test, particles=2, standardiser=corpus.standardiser, progress=False)
    assert np.isfinite(found.iwae).all()
