import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from pyro_stcn.data import recording_files
from pyro_stcn.data.audio import AudioError, write_sphere, write_wav
from pyro_stcn.data.checks import DataError
from pyro_stcn.data.recording_files import open_recordings

from .recordings import RATE, melody, noise, write_mp3, write_tree


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_STCN_CACHE", str(tmp_path / "cache"))


def test_plain_files_are_read_where_they_are(tmp_path):
    root = write_tree(tmp_path / "in", {"b/two": 2000, "a/one": 3000, "a/deep/er/three": 100})
    (root / "a" / "notes.txt").write_text("no recording")
    write_wav(root / ".hidden.wav", noise("hidden"), RATE)
    tape = open_recordings(root, sample_rate=RATE)
    assert [r.name for r in tape.recordings] == ["a/deep/er/three", "a/one", "b/two"]
    assert all(r.path.is_relative_to(root) for r in tape.recordings)
    expected = np.concatenate([noise(r.name, samples=r.samples) for r in tape.recordings])
    np.testing.assert_array_equal(tape.read(0, len(tape)), expected)
    assert not list((tmp_path / "cache").rglob("*.wav"))


@pytest.mark.parametrize("suffix", [".flac", ".aiff", ".au", ".sph", ".w64", "-24.wav", "-float.wav"])
def test_lossless_formats_give_the_same_samples(tmp_path, suffix):
    root, samples = tmp_path / "in", noise("x", samples=400_000)
    root.mkdir()
    path = root / f"x{suffix}"
    if suffix == ".sph":
        write_sphere(path, samples, RATE)
    else:
        subtype = {"-24.wav": "PCM_24", "-float.wav": "FLOAT"}.get(suffix, "PCM_16")
        soundfile.write(path, samples / 32768, RATE, subtype=subtype)
    tape = open_recordings(root, sample_rate=RATE)
    np.testing.assert_array_equal(tape.read(0, len(tape)), samples)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_read_exactly_at_any_place(tmp_path, mode):
    """As it is when it is decoded in one go, which reading after a seek is not."""
    root = tmp_path / "in"
    root.mkdir()
    write_mp3(root / "x.mp3", melody(60 * RATE), mode=mode)
    with soundfile.SoundFile(root / "x.mp3") as file:
        decoded = file.read(dtype="int16")
    tape = open_recordings(root, sample_rate=RATE)
    assert len(tape) == len(decoded)
    for start in np.random.default_rng(0).integers(0, len(decoded) - 8000, 100):
        np.testing.assert_array_equal(tape.read(start, 8000), decoded[start : start + 8000])


def test_an_mp3_beyond_full_scale_is_clipped_not_wrapped(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    square = np.sign(np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE))
    write_mp3(root / "x.mp3", square)
    floats, _ = soundfile.read(root / "x.mp3", dtype="float32")
    assert np.abs(floats).max() > 1.05
    tape = open_recordings(root, sample_rate=RATE)
    samples = tape.read(0, len(tape)).astype(int)
    assert (samples[floats > 1.01] == 32767).all()
    assert (samples[floats < -1.01] == -32768).all()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_name_that_is_no_text_becomes_text(tmp_path, suffix):
    """It is written into tables of results."""
    root = tmp_path / "in"
    root.mkdir()
    soundfile.write(root / f"a{suffix}", noise("a", samples=3000), RATE)
    try:
        os.rename(os.fsencode(root / f"a{suffix}"), os.fsencode(root) + b"/\xff" + suffix.encode())
    except OSError:
        pytest.skip("this file system wants text")
    write_mp3(root / "b.mp3", melody(RATE))
    for _ in range(2):
        tape = open_recordings(root, sample_rate=RATE)
        assert [r.name for r in tape.recordings] == ["\\udcff", "b"]
        np.testing.assert_array_equal(tape.read(0, 3000), noise("a", samples=3000))


def test_nothing_is_read_twice(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "in", {"a": 3000, "b": 2000})
    write_mp3(root / "c.mp3", melody(RATE))
    first = open_recordings(root, sample_rate=RATE)
    read = []
    through = recording_files._read_through

    def watched(path, *arguments):
        read.append(path.name)
        return through(path, *arguments)

    monkeypatch.setattr(recording_files, "_read_through", watched)
    assert open_recordings(root, sample_rate=RATE).digest() == first.digest()
    assert read == []
    write_wav(root / "a.wav", noise("another"), RATE)
    os.utime(root / "a.wav", ns=(0, 0))
    changed = open_recordings(root, sample_rate=RATE)
    assert read == ["a.wav"]
    assert changed.digest() != first.digest()
    copy = changed.recordings[2].path
    copy.write_bytes(copy.read_bytes()[:-10])
    assert open_recordings(root, sample_rate=RATE).digest() == changed.digest()
    assert read == ["a.wav", "c.mp3"]
    (root / "b.wav").unlink()
    assert len(open_recordings(root, sample_rate=RATE).recordings) == 2
    assert read == ["a.wav", "c.mp3"]


def test_the_digest_does_not_depend_on_where_the_files_are(tmp_path):
    root = write_tree(tmp_path / "in", {"a": 3000})
    write_mp3(root / "c.mp3", melody(RATE))
    shutil.copytree(root, tmp_path / "elsewhere")
    digests = {open_recordings(r, sample_rate=RATE).digest() for r in (root, tmp_path / "elsewhere")}
    assert len(digests) == 1


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"form": 0}', '{"form": 1, "recordings": {"a": {"size": 1}}}'])
def test_notes_that_cannot_be_read_are_made_again(tmp_path, notes):
    root = write_tree(tmp_path / "in", {"a": 3000})
    first = open_recordings(root, sample_rate=RATE)
    path = first.folder / "recordings.json"
    good = path.read_text()
    path.write_text(notes)
    assert open_recordings(root, sample_rate=RATE).digest() == first.digest()
    assert json.loads(path.read_text()) == json.loads(good)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    root = tmp_path / "in"
    root.mkdir()
    for name in "abc":
        write_mp3(root / f"{name}.mp3", melody(RATE, ord(name)))
    decode, read = recording_files._decoded_blocks, []

    def interrupted(path):
        read.append(path.stem)
        for block in decode(path):
            yield block
            if read == ["a", "b"]:
                raise KeyboardInterrupt

    monkeypatch.setattr(recording_files, "_decoded_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_recordings(root, sample_rate=RATE)
    kept = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == {".json", ".wav"}, "no unfinished file"
    tape = open_recordings(root, sample_rate=RATE)
    assert read == ["a", "b", "b", "c"]
    assert len(tape.recordings) == 3


def test_the_time_for_notes_does_not_grow_with_the_square_of_the_recordings(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "in", {f"r{i}": 300 for i in range(30)})
    written, replacing = [], recording_files.replacing
    monkeypatch.setattr(recording_files, "replacing", lambda path: (written.append(path), replacing(path))[1])
    open_recordings(root, sample_rate=RATE)
    assert len(written) < 5


def test_copies_are_never_among_the_recordings(tmp_path):
    root = write_tree(tmp_path / "in", {"a": 3000})
    for inside in (root, root / "cache"):
        with pytest.raises(DataError, match="is below .*in, where copies would be taken for recordings"):
            open_recordings(root, sample_rate=RATE, decoded=inside)
    assert [path.name for path in root.rglob("*")] == ["a.wav"]


def write_at(rate=RATE, channels=1, cut=None, content=None, suffix=".wav"):
    def write(path):
        path = path.with_suffix(suffix)
        if content is not None:
            path.write_bytes(content)
            return
        samples = melody(20 * RATE)
        if suffix == ".mp3":
            write_mp3(path, samples, rate)
        else:
            soundfile.write(path, np.stack([samples] * channels, 1), rate)
        if cut:
            path.write_bytes(path.read_bytes()[:cut])

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_at(rate=44100), r"bad\.wav: was sampled at 44100 Hz, expected 16000 Hz: .*ffmpeg -i IN -ar 16000"),
        (write_at(rate=44100, suffix=".mp3"), r"bad\.mp3: was sampled at 44100 Hz, expected 16000 Hz: .*ffmpeg -i IN"),
        (write_at(channels=2), r"bad\.wav: has 2 channels, expected 1"),
        (write_at(channels=2, suffix=".flac"), r"bad\.flac: has 2 channels, expected 1"),
        (write_at(cut=30_000), r"bad\.wav: is truncated: its header declares 320000 samples and 14978 are there"),
        (write_at(cut=20_000, suffix=".mp3"), r"bad\.mp3: is truncated: its header declares 320000 samples and"),
        (write_at(cut=20_000, suffix=".flac"), r"bad\.flac: (is truncated|cannot be decoded)"),
        (write_at(content=b""), r"bad\.wav: is empty \(0 bytes\)"),
        (write_at(content=b"<html>not found</html>", suffix=".mp3"), r"bad\.mp3: is no recording that can be read"),
        (write_at(content=b"RIFF\0\0\0\0WAVE"), r"bad\.wav: is truncated: it ends before its samples begin"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, write, message):
    root = write_tree(tmp_path / "in", {"a/good": 3000})
    write(root / "a" / "bad")
    with pytest.raises(AudioError, match=message):
        open_recordings(root, sample_rate=RATE)


def test_a_truncated_float_file_is_found_too(tmp_path):
    root = write_tree(tmp_path / "in", {"good": 3000})
    soundfile.write(root / "bad.wav", melody(RATE), RATE, subtype="FLOAT")
    (root / "bad.wav").write_bytes((root / "bad.wav").read_bytes()[:20_000])
    with pytest.raises(AudioError, match="bad.wav: is truncated: its header declares 16000 samples and 49"):
        open_recordings(root, sample_rate=RATE)


def test_a_truncated_mp3_has_the_samples_it_has(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    write_mp3(root / "bad.mp3", melody(20 * RATE))
    (root / "bad.mp3").write_bytes((root / "bad.mp3").read_bytes()[:20_000])
    with recording_files.OnwardSoundFile(root / "bad.mp3") as file:
        there = len(file.read(30 * RATE))
    with pytest.raises(AudioError, match=f"declares 320000 samples and {there} are there"):
        open_recordings(root, sample_rate=RATE)


def test_a_pipe_is_not_waited_for(tmp_path):
    root = write_tree(tmp_path / "in", {"a": 3000})
    os.mkfifo(root / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav: is not a regular file but a pipe"):
        open_recordings(root, sample_rate=RATE)


def test_silence_is_refused_and_all_bad_files_are_counted(tmp_path):
    root = write_tree(tmp_path / "in", {"good": 3000})
    for name in ("silent", "silent too"):
        write_wav(root / f"{name}.wav", np.full(500, 3, dtype=np.int16), RATE)
    with pytest.raises(AudioError, match=r"silent( too)?.wav: holds silence only \(500 samples, all 3\).*\(2 of 3 rec"):
        open_recordings(root, sample_rate=RATE)


def test_a_recording_in_two_formats_is_refused(tmp_path):
    root = write_tree(tmp_path / "in", {"a/one": 3000})
    write_mp3(root / "a" / "one.mp3", melody(RATE))
    with pytest.raises(DataError, match=r"recording 'a/one' is there twice, one\.(mp3|wav) and one\.(mp3|wav)"):
        open_recordings(root, sample_rate=RATE)


def test_a_folder_without_recordings(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"no recording below this folder \(1 other files\)"):
        open_recordings(tmp_path / "in", sample_rate=RATE)
    for path, what in (("in/a.txt", "is a file, not a folder"), ("none", "does not exist")):
        with pytest.raises(DataError, match=what):
            open_recordings(tmp_path / path, sample_rate=RATE)


def test_large_copies_are_made_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("PYRO_STCN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(recording_files, "_UNASKED", 30_000)
    root = tmp_path / "in"
    root.mkdir()
    write_mp3(root / "a.mp3", melody(RATE))
    with pytest.raises(DataError, match=r"1 recordings cannot be .* 32,\d\d\d bytes: give .* decoded=FOLDER"):
        open_recordings(root, sample_rate=RATE)
    assert not (tmp_path / "home").exists()
    tape = open_recordings(root, sample_rate=RATE, decoded=tmp_path / "here")
    assert tape.recordings[0].path.is_relative_to(tmp_path / "here")
    monkeypatch.setattr(recording_files.shutil, "disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(DataError, match="1,000 bytes are free"):
        open_recordings(root, sample_rate=RATE, decoded=tmp_path / "there")
