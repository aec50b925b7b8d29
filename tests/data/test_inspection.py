"""What the checks find: all that is planted, with its place, nothing in clean corpora, and what real ones look like."""

import json
import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import soundfile

from pyro_stcn.cli.data import Check, ListCorpora
from pyro_stcn.data import (
    CORPORA,
    DataError,
    Severity,
    What,
    inspect_data,
    load_arrays,
    recognise_corpus,
    write_strokes,
)
from pyro_stcn.data.audio import write_sphere, write_wav
from pyro_stcn.data.tallies import Moments, Thinned, gather

from .ink import arrays as ink_arrays
from .test_iamondb import document, points, put, stroke
from .test_safe_pickle import objects

ERROR, WARNING, NOTE = Severity


def noise(steps, width=2, seed=0):
    return np.random.default_rng([seed, steps]).normal(size=(steps, width))


def clean(count=12):
    return [noise(30 + i) for i in range(count)]


def speech(seconds=1.0, level=3000, rate=16000, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(level * rng.normal(size=int(seconds * rate)), -32768, 32767).astype(np.int16)


def only(report, what):
    """The one finding of a kind."""
    found = [f for f in report.findings if f.what is what]
    assert len(found) == 1, str(report)
    return found[0]


def kinds(report):
    return {f.what for f in report.findings}


def with_change(change, number=3, data=None):
    """Clean sequences, one of them changed."""
    data = clean() if data is None else data
    data[number] = change(data[number].copy())
    return data


def put_value(step, channel, value):
    def change(array):
        array[step, channel] = value
        return array

    return change


def test_clean_arrays_give_nothing():
    report = inspect_data(clean())
    assert report.findings == ()
    assert report.ok
    data = np.concatenate(clean())
    summary = report.summary
    assert (summary.sequences, summary.steps, report.kind) == (12, len(data), "arrays")
    assert summary.lengths == (30, 32.75, 35.5, 38.25, 41)
    for c, channel in enumerate(summary.channels):
        expected = (data[:, c].mean(), data[:, c].std(), data[:, c].min(), data[:, c].max())
        np.testing.assert_allclose((channel.mean, channel.std, channel.min, channel.max), expected)


def test_values_that_are_not_finite_are_all_told():
    data = with_change(put_value(7, 1, np.nan), 3)
    data = with_change(put_value(2, 0, -np.inf), 5, data)
    data[5][4:6] = np.nan
    report = inspect_data(data)
    first, second = (f for f in report.findings if f.what is What.NOT_FINITE)
    assert (first.severity, first.sequence, first.step, first.channel, first.count) == (ERROR, "3", 7, 1, 1)
    assert (second.sequence, second.step, second.channel, second.count) == ("5", 2, 0, 5)
    assert "leave the sequences out" in first.advice
    assert np.isfinite([c.mean for c in report.summary.channels]).all()


def test_a_channel_with_so_few_values_that_the_sample_has_none():
    data = np.full((2**20, 2), np.nan, dtype=np.float32)
    data[:, 0], data[1, 1], data[3, 1] = np.arange(len(data)) % 7, 1, 2
    report = inspect_data([data])
    assert only(report, What.NOT_FINITE).count == len(data) - 2


def test_csv_and_its_channels_by_name(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{a},{b},{s}" for s in "xyz" for a, b in noise(30, seed=ord(s))]
    rows[33] = "1,,y"
    path.write_text("\n".join(["speed,height,who", *rows]))
    finding = only(inspect_data(path, sequence_column="who"), What.NOT_FINITE)
    assert (finding.file, finding.sequence, finding.step, finding.channel) == (str(path), "a/y", 3, 1)
    assert finding.channel_name == "height"
    assert str(finding) == f"{path}, sequence 'a/y', step 3, channel 1 ('height'): nan, the first of 1 such values"


def test_channels_that_do_not_change():
    report = inspect_data([np.column_stack([s, np.full(len(s), 7.0)]) for s in clean()])
    finding = only(report, What.CONSTANT)
    assert (finding.severity, finding.channel, finding.detail) == (ERROR, 2, "7 at all 426 steps")
    with pytest.raises(DataError, match="hold one value"):
        load_arrays([np.column_stack([s, np.full(len(s), 7.0)]) for s in clean()])

    finding = only(inspect_data(with_change(lambda a: a * (1, 0))), What.STUCK)
    assert (finding.severity, finding.sequence, finding.channel, finding.count) == (NOTE, "3", 1, 1)

    finding = only(inspect_data(with_change(np.zeros_like)), What.SILENT)
    assert (finding.severity, finding.sequence, finding.count) == (WARNING, "3", 33)

    held = [np.column_stack([s[:, 0], np.where(np.arange(len(s)) < 20, s[0, 1], s[1, 1])]) for s in clean()]
    finding = only(inspect_data(held), What.STILL)
    assert (finding.severity, finding.channel) == (WARNING, 1)

    finding = only(inspect_data(with_change(lambda a: np.concatenate([a, np.zeros((20, 2))]))), What.PADDED)
    assert (finding.severity, finding.sequence, finding.step, finding.count) == (WARNING, "3", 33, 20)


def test_scales_and_outliers():
    report = inspect_data([noise(50, seed=i) * (1, 1e5) for i in range(4)])
    assert {(f.severity, f.what, f.channel) for f in report.findings} == {
        (WARNING, What.SCALE, 0),
        (WARNING, What.SCALE, 1),
    }
    three = [noise(40, 3, seed=i) * (1, 1, 1e-4) for i in range(5)]
    assert only(inspect_data(three), What.SCALE).channel == 2

    finding = only(inspect_data(with_change(put_value(11, 1, -4e9))), What.OUTLIER)
    assert (finding.severity, finding.sequence, finding.step, finding.channel) == (WARNING, "3", 11, 1)
    assert finding.detail.startswith("-4e+09, ")
    huge = inspect_data(with_change(put_value(0, 0, 1e100)))
    assert only(huge, What.OUTLIER).step == 0
    assert "infinite in float32" in " ".join(f.detail for f in huge.findings)
    beyond = only(inspect_data(with_change(put_value(0, 0, 1e300))), What.HUGE)
    assert (beyond.severity, beyond.channel) == (ERROR, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_sequences_are_too_few_to_hold_parts_out(count):
    data = clean()[:count]
    assert only(inspect_data(data), What.FEW).severity is ERROR
    assert inspect_data({"train": data, "valid": clean()[3:4], "test": clean()[4:5]}).ok


def test_bits_and_grids():
    bits = [np.column_stack([s, s[:, 0] > 0]) for s in clean()]
    finding = only(inspect_data(bits), What.BITS)
    assert (finding.severity, finding.detail) == (NOTE, "channels [2]: keep=[2]")

    whole = [np.rint(s * 5) for s in clean()]
    finding = only(inspect_data(whole), What.GRID)
    std = np.concatenate(whole).std(0)
    assert finding.detail.startswith(f"whole numbers; the ceiling is {np.log(std).sum():.2f} nats per step")
    assert "DiscretisedMixtureConfig" in finding.advice

    tenths = [np.rint(s * 20) / 20 for s in clean()]
    finding = only(inspect_data(tenths), What.GRID)
    assert "multiples of 0.05" in finding.detail
    assert f"{np.log(np.concatenate(tenths).std(0) / 0.05).sum():.2f} nats" in finding.detail


def test_lengths():
    data = [noise(n, seed=n) for n in (*range(40, 60), 900, 2)]
    long, short = (f for f in inspect_data(data).findings if f.what is What.RAGGED)
    assert (long.severity, long.sequence, long.count) == (WARNING, "20", 1)
    assert (short.severity, short.sequence, short.count) == (NOTE, "21", 1)
    assert "the longest of 900 steps, median 49.5" in long.detail


def test_copies_within_and_between_parts():
    data = clean()
    finding = only(inspect_data([*data, data[4].copy()]), What.REPEATED)
    assert (finding.severity, finding.sequence, finding.detail) == (WARNING, "12", "value for value '4'")
    report = inspect_data({"train": data[:8], "valid": data[8:], "test": [data[10], data[2].astype(np.float64)]})
    between = {(f.sequence, f.detail) for f in report.findings if f.what is What.BOTH_PARTS}
    assert between == {
        ("test/0", "in test, value for value 'valid/2' in valid"),
        ("test/1", "in test, value for value 'train/2' in train"),
    }
    assert report.summary.parts == {"train": 8, "valid": 4, "test": 2}


def test_what_is_no_sequence_and_other_widths():
    data = [*clean(), noise(9, 3), np.array([["a"]]), [1, 2], np.ones((2, 2, 2)), noise(8)[:0]]
    report = inspect_data(data)
    assert [f.sequence for f in report.findings if f.what is What.FORM] == ["13", "14", "15", "16"]
    finding = only(report, What.WIDTH)
    assert (finding.sequence, finding.detail) == ("12", "3 channels, most have 2")
    assert not report.ok
    assert only(inspect_data(3), What.FORM).detail.startswith("data is a int")
    assert not inspect_data([]).ok


def test_a_folder_of_arrays_goes_on_after_every_bad_file(tmp_path):
    for i, array in enumerate(clean(6)):
        np.save(tmp_path / f"{i}.npy", array)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "cut.npy").write_bytes((tmp_path / "0.npy").read_bytes()[:-9])
    (tmp_path / "pickle.npz").write_bytes(b"PK\3\4")
    (tmp_path / "words.csv").write_text("1,2\n3,four\n")
    (tmp_path / "notes.txt").write_text("no data")
    np.savez(tmp_path / "two.npz", a=noise(20, seed=8), b=np.where(np.arange(2) == 1, np.nan, noise(20, seed=9)))
    os.mkfifo(tmp_path / "pipe.npy")
    write_wav(tmp_path / "a.wav", speech(), 16000)
    report = inspect_data(tmp_path)
    found = {f.what: f for f in report.findings}
    assert found[What.EMPTY].file == str(tmp_path / "empty.npy")
    unreadable = {os.path.basename(f.file): f.detail for f in report.findings if f.what is What.UNREADABLE}
    assert unreadable.keys() == {"cut.npy", "pickle.npz", "words.csv"}
    assert "line 2, column 1 is 'four'" in unreadable["words.csv"]
    assert (found[What.NOT_FINITE].sequence, found[What.NOT_FINITE].channel) == ("two/b", 1)
    assert (found[What.IRREGULAR].severity, found[What.IRREGULAR].file) == (WARNING, str(tmp_path / "pipe.npy"))
    assert found[What.IGNORED].detail == "1 files are not read: 1 .txt"
    assert found[What.MIXED].severity is ERROR
    assert found[What.WIDTH].file == str(tmp_path / "a.wav")
    assert report.summary.sequences == 9
    text = str(report)
    assert "  cut.npy: " in text
    assert "empty.npy: has 0 bytes\n  -> copy or download them again" in text
    assert text.endswith("errors, 1 warning, 1 note")


def test_files_with_other_columns(tmp_path):
    for name, columns in (("a", "x,y"), ("b", "x,y"), ("c", "y,x")):
        (tmp_path / f"{name}.csv").write_text("\n".join([columns, *(f"{a},{b}" for a, b in noise(9, seed=ord(name)))]))
    finding = only(inspect_data(tmp_path), What.COLUMNS)
    assert (finding.file, finding.severity) == (str(tmp_path / "c.csv"), ERROR)
    assert finding.detail == "column 0 is 'y', most have 'x'; column 1 is 'x', most have 'y'"


def test_a_folder_of_recordings(tmp_path):
    for i in range(6):
        write_wav(tmp_path / f"good{i}.wav", speech(seed=i), 16000)
    write_wav(tmp_path / "rate.wav", speech(seed=9), 8000)
    write_wav(tmp_path / "silent.wav", np.full(3000, -2, np.int16), 16000)
    write_wav(tmp_path / "short.wav", speech(0.01), 16000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([speech(), speech()], 1), 16000)
    write_sphere(tmp_path / "cut.wav", speech(seed=10), 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-2000])
    write_wav(tmp_path / "copy.wav", speech(seed=3), 16000)
    write_sphere(tmp_path / "loud.wav", speech(level=60_000, seed=11), 16000)
    write_wav(tmp_path / "offset.wav", speech(level=300, seed=12) + np.int16(900), 16000)
    write_wav(tmp_path / "ends.wav", np.concatenate([speech(0.5, seed=13), np.zeros(8000, np.int16)]), 16000)
    soundfile.write(tmp_path / "float.flac", speech(seed=14), 16000, subtype="PCM_24")
    report = inspect_data(tmp_path)

    def place(what):
        finding = next(f for f in report.findings if f.what is what)
        assert finding.sequence == os.path.basename(finding.file).rsplit(".", 1)[0]
        return finding.severity, finding.sequence

    assert place(What.RATE) == (ERROR, "rate")
    assert place(What.SILENT) == (ERROR, "silent")
    assert place(What.SHORT) == (ERROR, "short")
    assert place(What.STEREO) == (ERROR, "stereo")
    assert place(What.TRUNCATED) == (ERROR, "cut")
    assert only(report, What.TRUNCATED).step == 15000
    assert place(What.REPEATED) == (WARNING, "good3")
    assert place(What.CLIPPED) == (WARNING, "loud")
    loud = speech(level=60_000, seed=11)
    assert next(f for f in report.findings if f.what is What.CLIPPED).step == int((loud == 32767).argmax())
    assert place(What.OFFSET) == (WARNING, "offset")
    assert place(What.PADDED) == (WARNING, "ends")
    assert only(report, What.PADDED).step == 8000
    assert report.summary.rates == {8000: 1, 16000: 12}
    assert report.summary.formats == {"RIFF, 16-bit PCM": 11, "NIST SPHERE, 16-bit PCM": 1, "FLAC, PCM_24": 1}
    # what the check calls errors the loader refuses, and nothing else
    for name in ("rate", "silent", "short", "stereo", "cut"):
        (tmp_path / f"{name}.wav").unlink()
    assert inspect_data(tmp_path).ok
    load_arrays(tmp_path)


def test_long_recordings_are_read_one_by_one_and_all(tmp_path):
    """Whatever their loader would refuse, and however few they are."""
    for name in "abcd":
        write_wav(tmp_path / f"{name}.wav", speech(seed=ord(name)), 16000)
    write_wav(tmp_path / "rate.wav", speech(seed=9), 8000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "page.mp3").write_text("<html>")
    os.mkfifo(tmp_path / "pipe.wav")
    report = inspect_data(tmp_path, corpus="blizzard")
    assert report.summary.sequences == 5
    assert only(report, What.RATE).sequence == "rate"
    assert only(report, What.EMPTY).sequence == "empty"
    assert {f.sequence for f in report.findings if f.what is What.UNREADABLE} == {"page", "pipe"}
    assert report.summary.lengths[-1] == 16000


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_24"])
def test_a_truncated_recording_of_another_encoding(tmp_path, subtype):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", speech(seed=ord(name)), 16000, subtype=subtype)
    path = tmp_path / "b.wav"
    path.write_bytes(path.read_bytes()[:20_000])
    assert only(inspect_data(tmp_path), What.TRUNCATED).file == str(path)
    with pytest.raises(DataError, match=r"b\.wav: is truncated: its header declares 16000 samples and [46]\d\d\d are"):
        load_arrays(tmp_path)


def test_parts_by_folders(tmp_path):
    for part, seeds in (("train", (0, 1, 2)), ("val", (3, 1)), ("test", (4, 5))):
        (tmp_path / part).mkdir()
        for seed in seeds:
            write_wav(tmp_path / part / f"{seed}.wav", speech(seed=seed), 16000)
    report = inspect_data(tmp_path)
    finding = only(report, What.BOTH_PARTS)
    assert (finding.sequence, finding.severity) == ("val/1", WARNING)
    assert finding.detail == f"in valid, value for value 'train/1' in {tmp_path / 'train' / '1.wav'} in train"
    assert report.summary.parts == {"test": 2, "train": 3, "valid": 2}


def timit(root):
    for i, (part, speaker) in enumerate((("TRAIN", "FABC0"), ("TRAIN", "MABC0"), ("TEST", "FXYZ0"))):
        for j, sentence in enumerate(("SA1", "SX7")):
            folder = root / part / "DR1" / speaker
            folder.mkdir(parents=True, exist_ok=True)
            write_sphere(folder / f"{sentence}.WAV", speech(0.3, seed=20 + 2 * i + j), 16000)
    return root


def test_timit(tmp_path):
    root = timit(tmp_path)
    assert recognise_corpus(root) == "timit"
    assert inspect_data(root).ok
    folder = root / "TRAIN/DR1/FABC0"
    write_sphere(folder / "SI1.WAV", speech(seed=5), 8000)
    soundfile.write(folder / "SI2.WAV", speech(seed=6), 16000, format="WAV", subtype="PCM_24")
    (folder / "SI3.WAV").touch()
    write_wav(folder / "SA1.WAV.wav", speech(0.3, seed=7), 16000)
    write_wav(folder / "SX7.WAV.wav", soundfile.read(folder / "SX7.WAV", dtype="int16")[0], 16000)
    (folder / "other.wav").write_bytes(b"")
    (root / "TEST/DR1/FABC0").mkdir()
    write_sphere(root / "TEST/DR1/FABC0/SX9.WAV", speech(0.3, seed=8), 16000)
    write_sphere(folder / "SX9.WAV", speech(0.3, seed=8), 16000)
    report = inspect_data(root)
    errors = {(f.what, f.sequence) for f in report.of(ERROR)}
    assert errors == {
        (What.RATE, "dr1/fabc0/si1"),
        (What.ENCODING, "dr1/fabc0/si2"),
        (What.EMPTY, "dr1/fabc0/si3"),
        (What.COPIES, "dr1/fabc0/sa1"),
        (What.BOTH_PARTS, "dr1/fabc0/sx9"),
    }
    assert only(report, What.RATE).detail == "8000 Hz, expected 16000 Hz"
    assert only(report, What.IGNORED).count == 1


def test_strokes(tmp_path):
    path = tmp_path / "a.npz"
    changes = ink_arrays()
    changes["train_points"][6, 1] = np.nan  # sequence 1, step 1
    changes["test_points"][2, 2] = 0.5
    changes["valid_lengths"] = np.array([4, 2])
    np.savez(path, **changes)
    assert recognise_corpus(path) == "strokes"
    report = inspect_data(path)
    finding = only(report, What.NOT_FINITE)
    assert (finding.sequence, finding.step, finding.channel, finding.channel_name) == ("train/1", 1, 1, "dy")
    finding = only(report, What.PEN)
    assert (finding.sequence, finding.step, finding.channel, finding.count) == ("test/0", 2, 2, 1)
    assert "valid_lengths sum to 6" in only(report, What.FORM).detail
    assert report.summary.parts == {"train": 4, "test": 1}


def test_strokes_in_two_parts(tmp_path):
    data = [np.column_stack([noise(9, seed=i), np.arange(9) == 8]) for i in range(5)]
    path = write_strokes(tmp_path / "a.npz", data[:3], data[3:4], [data[4], data[1]])
    finding = only(inspect_data(path), What.BOTH_PARTS)
    assert (finding.sequence, finding.detail) == ("test/1", "in test, value for value 'train/1' in train")


def test_iamondb(tmp_path):
    def drawn(seed):
        rng = np.random.default_rng(seed)
        return document("".join(stroke(points(*rng.integers(0, 99, (9, 2)).tolist())) for _ in range(3)))

    for i, name in enumerate(("a01-000u-01", "a01-000u-02", "a01-020-01", "c03-007w-01", "c03-021x-01")):
        put(tmp_path, name, drawn(i))
    (tmp_path / "train.txt").write_text("a01-000u\na01-020\n")
    (tmp_path / "valid.txt").write_text("c03-007w\n")
    assert recognise_corpus(tmp_path) == recognise_corpus(tmp_path / "lineStrokes") == "iamondb"
    clean_one = inspect_data(tmp_path)
    assert clean_one.ok
    assert clean_one.summary.parts == {"train": 3, "valid": 1}
    assert "1 of 4 forms are in neither list, such as 'c03-021x'" in only(clean_one, What.IGNORED).detail
    put(tmp_path, "a01-000u-02", drawn(1)[:-40])
    put(tmp_path, "a01-020-01", "")
    put(tmp_path, "c03-007w-01", drawn(0))
    (tmp_path / "valid.txt").write_text("c03-007w\na01-020\n")
    report = inspect_data(tmp_path)
    assert only(report, What.UNREADABLE).sequence == "a01-000u-02"
    assert only(report, What.EMPTY).sequence == "a01-020-01"
    details = {f.detail for f in report.findings if f.what is What.BOTH_PARTS}
    assert "1 forms are also in train.txt, such as 'a01-020'" in details
    assert any("in valid, value for value 'a01-000u-01' in " in detail for detail in details)
    (tmp_path / "valid.txt").unlink()
    assert "valid.txt" in only(inspect_data(tmp_path), What.LIST).file


def test_deepwriting(tmp_path):
    def ink(steps, seed):
        return np.column_stack([noise(steps, seed=seed), np.arange(steps) == steps - 1]).astype(np.float32)

    train = [ink(9 + i, i) for i in range(5)]
    train[2][4, 0] = np.inf
    train[3][1, 2] = 3
    np.savez(tmp_path / "deepwriting_v2_training.npz", samples=objects(*train))
    np.savez(tmp_path / "deepwriting_v2_validation.npz", samples=objects(ink(9, 7), np.ones((3, 2)), train[0]))
    assert recognise_corpus(tmp_path) == "deepwriting"
    report = inspect_data(tmp_path)
    finding = only(report, What.NOT_FINITE)
    assert (finding.sequence, finding.step, finding.channel_name) == ("train/2", 4, "dx")
    assert (only(report, What.PEN).sequence, only(report, What.PEN).step) == ("train/3", 1)
    assert only(report, What.FORM).sequence == "valid/1"
    assert only(report, What.BOTH_PARTS).sequence == "valid/2"
    (tmp_path / "deepwriting_v2_validation.npz").unlink()
    assert "does not exist" in only(inspect_data(tmp_path), What.UNREADABLE).detail


@pytest.mark.parametrize("kind", [name for name, kind in CORPORA.items() if kind.synthetic])
def test_synthetic_corpora_are_recognised_and_clean(kind):
    path = CORPORA[kind].synthetic()
    # Blizzard's is a tree of recordings like any other: what it is has to be said.
    report = inspect_data(path, corpus=kind if kind == "blizzard" else None)
    assert report.kind == kind
    assert report.ok, str(report)
    assert not report.of(WARNING), str(report)
    assert report.summary.sequences > 10


def test_a_kind_without_a_reader_of_its_own_is_loaded(monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setitem(CORPORA, "mine", replace(CORPORA["arrays"], contents="mine"))
    np.save(tmp_path / "a.npy", np.stack([noise(40, seed=i) for i in range(12)]) * (1, 1e5))
    report = inspect_data(tmp_path / "a.npy", corpus="mine")
    assert (report.kind, report.summary.sequences) == ("mine", 12)
    assert report.summary.channels[1].std == pytest.approx(1e5, rel=0.1)
    assert only(inspect_data(tmp_path / "none.npy", corpus="mine"), What.UNREADABLE).detail == "does not exist"
    np.save(tmp_path / "a.npy", np.zeros((9, 4, 2)))
    assert "cannot be standardised" in only(inspect_data(tmp_path / "a.npy", corpus="mine"), What.UNREADABLE).detail


def test_the_report_as_json(tmp_path):
    data = with_change(put_value(7, 1, np.nan), 3)
    data[5][:] = np.nan
    report = inspect_data(data)
    text = report.to_json(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == text + "\n"
    read = json.loads(text)
    assert read["ok"] is False
    assert read["summary"]["sequences"] == 12
    assert len(read["findings"]) == len(report.findings)
    assert read["findings"][0] == {
        "severity": "error",
        "what": "not_finite",
        "title": What.NOT_FINITE.title,
        "detail": "nan, the first of 1 such values",
        "sequence": "3",
        "step": 7,
        "channel": 1,
        "count": 1,
        "advice": What.NOT_FINITE.advice,
    }
    nothing = json.loads(inspect_data([np.full((3, 1), np.nan)]).to_json())
    assert nothing["summary"]["channels"][0]["min"] is None


def test_the_table_shows_a_few_places_and_counts_the_rest():
    report = inspect_data([np.where(s == s[0], np.nan, s) for s in clean(9)])
    text = str(report)
    assert "ERROR  values that are not finite, 9 places" in text
    assert text.count("such values") == 5
    assert "... and 4 more" in text


def test_an_unknown_kind_is_refused():
    with pytest.raises(DataError, match=r"no kind of corpus 'librispeech'; there are: timit"):
        inspect_data("x", corpus="librispeech")


def test_the_command_prints_writes_and_exits(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack(clean(3)[:1] * 4) + np.arange(4)[:, None, None])
    Check(tmp_path / "a.npy", json=tmp_path / "r.json").run()
    assert "0 errors" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["ok"]
    with pytest.raises(SystemExit) as exit_:
        Check(tmp_path / "none.npy").run()
    assert exit_.value.code == 1
    assert "does not exist" in capsys.readouterr().out
    ListCorpora().run()
    out = capsys.readouterr().out
    assert all(f"{name}: {kind.contents}" in out and kind.owner in out for name, kind in CORPORA.items())
    ListCorpora("arrays").run()
    out = capsys.readouterr().out
    assert '  missing="refuse"\n      what to do with missing values, see ``Missing``. There are: refuse, mark.' in out
    assert "timit" not in out
    with pytest.raises(DataError, match="there is no kind of corpus 'array'; there are: timit, "):
        ListCorpora("array").run()


# How it is counted


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_do_not_matter(size):
    x = np.rint(noise(200, 3) * 2)
    x[50:60] = x[50]
    x[20, 1], x[150, 0], x[-9:] = np.nan, np.inf, 1.0
    tally = gather((x[i : i + size] for i in range(0, 200, size)), 3, Thinned(3), pen=2)
    finite = np.where(np.isfinite(x), x, np.nan)
    np.testing.assert_allclose(tally.moments.mean, np.nanmean(finite, 0))
    np.testing.assert_allclose(tally.moments.std, np.nanstd(finite, 0))
    np.testing.assert_array_equal(tally.high_at, np.nanargmax(finite, 0))
    np.testing.assert_array_equal(tally.low_at, np.nanargmin(finite, 0))
    np.testing.assert_array_equal(tally.still, (x[1:] == x[:-1]).sum(0))
    top = np.nanmax(finite, 0)
    np.testing.assert_array_equal(tally.stuck_high, ((x[1:] == top) & (x[:-1] == top)).sum(0))
    assert (tally.steps, tally.bad, tally.first_bad[:2], tally.tail) == (200, 2, (20, 1), 9)
    wrong = ~np.isin(x[:, 2], (0, 1))
    assert (tally.wrong_pen, tally.first_wrong_pen[0]) == (wrong.sum(), wrong.argmax())
    assert tally.digest == gather([x], 3, Thinned(3)).digest
    assert tally.digest != gather([x[:, [1, 0, 2]]], 3, Thinned(3)).digest


def test_moments_of_a_large_offset():
    x = noise(1000, 1) * 1e-3 + 1e6
    moments = Moments(1)
    for block in np.split(x, 10):
        moments.add(block, np.isfinite(block))
    assert moments.std[0] == pytest.approx(x.std(), rel=1e-5)


def test_the_sample_is_spread_evenly():
    sample = Thinned(2**14)
    assert sample.room == 64
    for i in range(0, 1000, 10):
        sample.add(np.repeat(np.arange(i, i + 10.0)[:, None], 2**14, 1))
    kept = sample.rows()[:, 0]
    assert 32 <= len(kept) <= 64
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0


def test_memory_does_not_grow_with_a_recording(tmp_path):
    peaks = []
    for seconds in (20, 200):
        write_wav(tmp_path / "a.wav", speech(seconds), 16000)
        tracemalloc.start()
        report = inspect_data(tmp_path / "a.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.summary.steps == seconds * 16000
    assert peaks[1] < 60e6  # of 25.6 MB in float64, with the sample of 8 MB and its sorting
    assert peaks[1] < 2.5 * peaks[0]


# Real corpora


@pytest.mark.parametrize(
    ("folder", "kind", "sequences", "found"),
    [
        ("timit_sample/nltk_layout", "timit", 160, {What.OUTLIER: 1, What.GRID: 1}),
        ("timit_sample/ldc_layout", "timit", 160, {What.OUTLIER: 1, What.GRID: 1}),
        ("fsdd", "arrays", 3000, {What.GRID: 1}),
        ("gw_online/gw_online.stroke3.npz", "strokes", 4860, {What.OUTLIER: 2, What.REPEATED: 1, What.GRID: 1}),
        (
            "kanji/short_kanji.stroke3.npz",
            "strokes",
            11100,
            {What.BOTH_PARTS: 8, What.REPEATED: 45, What.RAGGED: 1, What.GRID: 1},
        ),
    ],
)
def test_real_corpora_have_no_errors(corpora, folder, kind, sequences, found):
    report = inspect_data(corpora / folder)
    assert (report.kind, report.summary.sequences) == (kind, sequences)
    assert report.ok, str(report)
    assert Counter(f.what for f in report.findings) == found, str(report)
    assert {f.what for f in report.of(WARNING)} <= {What.BOTH_PARTS}


SONGS = [[[60 + i], [62, 64], [60]] for i in range(6)]


LABELS = "who,stage\n" + "".join(f"{who},{stage}\n" for who in "abcdef" for stage in ("wake", "rem", f"n{who}"))


def test_missing_values_are_no_errors_where_they_are_marked(tmp_path):
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(20, 2)) for _ in range(6)]
    data[1][3:5, 0] = np.nan
    for i, array in enumerate(data):
        np.save(tmp_path / f"{i}.npy", array)
    assert only(inspect_data(tmp_path), What.NOT_FINITE).count == 2
    report = inspect_data(tmp_path, missing="mark")
    assert report.ok, str(report)
    finding = only(report, What.MISSING)
    assert (finding.sequence, finding.count, finding.detail) == ("1", 2, "2 of 20 steps")
    data[1][7, 1], data[2][:, 0] = np.inf, np.nan
    for i in (1, 2):
        np.save(tmp_path / f"{i}.npy", data[i])
    worse = inspect_data(tmp_path, missing="mark")
    assert (only(worse, What.NOT_FINITE).count, only(worse, What.NOT_FINITE).step) == (1, 7)
    assert only(worse, What.UNKNOWN).sequence == "2"


def test_whole_numbers_stay_whole_where_some_are_missing():
    data = [np.array([[1.0], [np.nan], [0.0], [1.0]] * 5)] * 2
    assert only(inspect_data(data, missing="mark"), What.BITS)


def test_missing_values_are_marked_in_arrays_only(tmp_path):
    with pytest.raises(DataError, match="in arrays only, and .* is taken for timit"):
        inspect_data(tmp_path, corpus="timit", missing="mark")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "anna\nbert\nanton\ncleo\ndora\nemil\n"),
        ("songs.json", str(SONGS)),
        ("sleep.csv", LABELS),
    ],
)
def test_labels_and_notes_are_read_by_the_loader_of_own_data(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    report = inspect_data(path, sequence_column="who" if path.suffix == ".csv" else None)
    assert report.ok, str(report)
    assert report.summary.sequences == 6
    path.write_text("")
    what = What.EMPTY if path.suffix == ".csv" else What.UNREADABLE  # an empty table is not seen to be one of labels
    assert str(path) in str(only(inspect_data(path), what))
