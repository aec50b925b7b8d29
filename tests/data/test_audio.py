import struct

import numpy as np
import pytest
import soundfile

from pyro_stcn.data.audio import (
    AudioError,
    AudioFormat,
    frames,
    read_audio,
    write_sphere,
    write_wav,
)

RATE = 16000
SAMPLES = (3000 * np.sin(np.arange(4001) / 7)).astype(np.int16)
WRITERS = {"sphere": write_sphere, "riff": write_wav}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def test_round_trip(tmp_path, write):
    write(tmp_path / "a.wav", SAMPLES, RATE)
    audio = read_audio(tmp_path / "a.wav", expected_rate=RATE)
    np.testing.assert_array_equal(audio.samples, SAMPLES)
    assert audio.samples.dtype == np.int16
    assert audio.sample_rate == RATE
    assert audio.format is (AudioFormat.SPHERE if write is write_sphere else AudioFormat.RIFF)


def test_other_programs_read_what_is_written(tmp_path, write):
    write(tmp_path / "a", SAMPLES, 8000)
    samples, rate = soundfile.read(tmp_path / "a", dtype="int16")
    np.testing.assert_array_equal(samples, SAMPLES)
    assert rate == 8000


@pytest.mark.parametrize("name", ["a.txt", "no extension", "Stimme über 日本.mp3", "A.WAV.wav"])
def test_the_name_of_a_file_means_nothing(tmp_path, write, name):
    folder = tmp_path / "a folder, ключ"
    folder.mkdir()
    write(folder / name, SAMPLES, RATE)
    np.testing.assert_array_equal(read_audio(str(folder / name)).samples, SAMPLES)


def test_sphere_says_its_database(tmp_path):
    write_sphere(tmp_path / "a", SAMPLES, RATE, database="my words")
    assert read_audio(tmp_path / "a").database == "my words"
    write_wav(tmp_path / "b", SAMPLES, RATE)
    assert read_audio(tmp_path / "b").database is None


def test_big_endian_sphere(tmp_path):
    path = tmp_path / "a"
    write_sphere(path, SAMPLES, RATE)
    content = path.read_bytes()[:1024].replace(b"-s2 01", b"-s2 10")
    path.write_bytes(content + SAMPLES.astype(">i2").tobytes())
    np.testing.assert_array_equal(read_audio(path).samples, SAMPLES)


def test_riff_with_other_chunks_around_the_samples(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, SAMPLES, RATE)
    content = path.read_bytes()
    at = content.index(b"data")
    note = b"LIST" + struct.pack("<I", 5) + b"hello\0"  # odd length, padded
    content = content[:at] + note + content[at:] + note
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    np.testing.assert_array_equal(read_audio(path).samples, SAMPLES)


def test_extensible_riff_is_pcm_all_the_same(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES, RATE, format="WAVEX", subtype="PCM_16")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav").samples, SAMPLES)


def plant_missing(path):
    pass


def plant_folder(path):
    path.mkdir()


def plant_empty(path):
    path.write_bytes(b"")


def plant_truncated_sphere(path):
    write_sphere(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes()[:-1001])


def plant_truncated_riff(path):
    write_wav(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes()[:-1001])


def plant_sphere_header_only(path):
    write_sphere(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes()[:1024])


def plant_half_a_sphere_header(path):
    write_sphere(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes()[:100])


def plant_half_a_riff_header(path):
    write_wav(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes()[:30])


def plant_longer_sphere(path):
    write_sphere(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes() + bytes(200))


def plant_other_rate(path):
    write_wav(path, SAMPLES, 8000)


def plant_other_rate_sphere(path):
    write_sphere(path, SAMPLES, 8000)


def plant_shorten_in_header(path):
    write_sphere(path, SAMPLES, RATE)
    line = b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head"
    content = path.read_bytes()
    path.write_bytes(content[:1024].replace(b"end_head", line)[:1024] + b"ajkg\2" + content[1029:])


def plant_shorten_in_data(path):
    write_sphere(path, SAMPLES, RATE)
    content = path.read_bytes()
    path.write_bytes(content[:1024] + b"ajkg\2" + content[1029:])


def plant_bare_shorten(path):
    path.write_bytes(b"ajkg\2" + bytes(100))


def plant_ulaw_sphere(path):
    write_sphere(path, SAMPLES, RATE)
    content = path.read_bytes()
    header = content[:1024].replace(b"end_head", b"sample_coding -s4 ulaw\nend_head")[:1024]
    path.write_bytes(header + content[1024:])


def plant_stereo_sphere(path):
    write_sphere(path, SAMPLES, RATE)
    path.write_bytes(path.read_bytes().replace(b"channel_count -i 1", b"channel_count -i 2"))


def plant_stereo(path):
    soundfile.write(path, np.stack([SAMPLES, SAMPLES], 1), RATE, format="WAV")


def plant_8_bit(path):
    soundfile.write(path, SAMPLES, RATE, format="WAV", subtype="PCM_U8")


def plant_24_bit(path):
    soundfile.write(path, SAMPLES, RATE, format="WAV", subtype="PCM_24")


def plant_float(path):
    soundfile.write(path, SAMPLES / 32768, RATE, format="WAV", subtype="FLOAT")


def plant_no_samples(path):
    write_wav(path, SAMPLES[:0], RATE)


def plant_no_samples_sphere(path):
    write_sphere(path, SAMPLES[:0], RATE)


def plant_pipe(path):
    write_wav(path, SAMPLES, RATE)
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])


def plant_silence(path):
    write_sphere(path, np.zeros(500, np.int16), RATE)


def plant_offset_silence(path):
    write_wav(path, np.full(500, -3, np.int16), RATE)


def plant_flac(path):
    soundfile.write(path, SAMPLES, RATE, format="FLAC")


def plant_web_page(path):
    path.write_text("<!DOCTYPE html><p>Please log in")


def plant_lfs_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def plant_noise(path):
    path.write_bytes(b"\x12\x34" * 100)


@pytest.mark.parametrize(
    ("plant", "found", "way_out"),
    [
        (plant_missing, "No such file", "cannot be read"),
        (plant_folder, "Is a directory", "cannot be read"),
        (plant_empty, "is empty", "download the file again"),
        (plant_truncated_sphere, "declares 4001 samples and 3500 are there", "download the file"),
        (plant_truncated_riff, "declares 4001 samples and 3500 are there", "download the file"),
        (plant_sphere_header_only, "declares 4001 samples and 0 are there", "download the file"),
        (plant_half_a_sphere_header, "header is damaged", "download the file again"),
        (plant_half_a_riff_header, "is truncated", "download it again"),
        (plant_longer_sphere, "declares 4001 samples and 4101 were read", "does not belong"),
        (plant_other_rate, "8000 Hz, expected 16000 Hz", "ffmpeg -i IN -ar 16000"),
        (plant_other_rate_sphere, "8000 Hz, expected 16000 Hz", "ffmpeg -i IN -ar 16000"),
        (plant_shorten_in_header, "compressed with shorten", "sph2pipe -f wav"),
        (plant_shorten_in_data, "compressed with shorten", "sph2pipe -f wav"),
        (plant_bare_shorten, "compressed with shorten", "sph2pipe -f wav"),
        (plant_ulaw_sphere, "coding 'ulaw'", "ffmpeg -i IN -c:a pcm_s16le"),
        (plant_stereo_sphere, "has 2 channels, expected 1", "-ac 1"),
        (plant_stereo, "has 2 channels, expected 1", "-ac 1"),
        (plant_8_bit, "holds 8-bit PCM, expected 16-bit", "pcm_s16le"),
        (plant_24_bit, "holds 24-bit PCM, expected 16-bit", "pcm_s16le"),
        (plant_float, "32-bit samples with RIFF format tag 3", "pcm_s16le"),
        (plant_no_samples, "holds no samples", "leave it out"),
        (plant_no_samples_sphere, "holds no samples", "leave it out"),
        (plant_pipe, "its length was never written", "pcm_s16le"),
        (plant_silence, "silence only (500 samples, all 0)", "leave it out"),
        (plant_offset_silence, "silence only (500 samples, all -3)", "leave it out"),
        (plant_flac, "found FLAC audio", "pcm_s16le"),
        (plant_web_page, "found a web page", "download"),
        (plant_lfs_pointer, "Git LFS pointer", "git lfs pull"),
        (plant_noise, r"unknown content, beginning with b'\x124", "pcm_s16le"),
    ],
)
def test_defects_name_the_file_what_was_found_and_the_way_out(tmp_path, plant, found, way_out):
    path = tmp_path / "a ü.wav"
    plant(path)
    with pytest.raises(AudioError) as error:
        read_audio(path, expected_rate=RATE)
    message = str(error.value)
    assert message.startswith(str(path))
    assert found in message
    assert way_out in message


def test_floats_are_scaled_and_clipped(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0.0, 0.5, 1.0, -1.0, 7.0, -7.0, 1 / 32768]), RATE)
    expected = [0, 16384, 32767, -32768, 32767, -32768, 1]
    assert read_audio(tmp_path / "a.wav").samples.tolist() == expected


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        (np.zeros(3, dtype=np.int32), "type int32"),
        (np.array([0.0, np.nan]), "sample 1 is nan"),
    ],
)
def test_what_cannot_be_written(tmp_path, write, samples, message):
    with pytest.raises(AudioError, match=message):
        write(tmp_path / "a.wav", samples, RATE)
    assert not (tmp_path / "a.wav").exists()


def test_frames_drop_the_incomplete_tail():
    cut = frames(np.arange(11), 4)
    assert cut.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert frames(np.arange(3), 4).shape == (0, 4)


def test_the_sphere_file_of_the_nltk_sample_that_is_named_wav(corpora):
    folder = corpora / "timit_sample" / "nltk_layout" / "dr1-fvmh0"
    assert read_audio(folder / "si836.wav").format is AudioFormat.SPHERE
    assert len(read_audio(folder / "si836.wav").samples) == 68813
    assert read_audio(folder / "sa1.wav").format is AudioFormat.RIFF


def test_recordings_at_another_rate(corpora):
    path = next((corpora / "fsdd" / "recordings").glob("*.wav"))
    assert read_audio(path).sample_rate == 8000
    with pytest.raises(AudioError, match="8000 Hz, expected 16000"):
        read_audio(path, expected_rate=16000)
