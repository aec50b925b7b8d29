import json

import numpy as np
import pyro

from pyro_stcn import generate, load_model, save_model
from pyro_stcn.cli import main
from pyro_stcn.data import load_arrays, load_strokes, read_audio, synthetic_strokes, synthetic_timit

from ..small import small_stcn
from .conftest import refused, train


def table(path):
    return np.loadtxt(path, delimiter=",", skiprows=1)


def test_sequences_come_in_the_unit_of_the_data(finished, walks, tmp_path, capsys):
    main(["generate", str(finished), "--steps", "6", "--count", "2", "--output", str(tmp_path), "--seed", "5"])
    made = [table(tmp_path / f"sequence-{i}.csv") for i in range(2)]
    net = load_model(finished / "best.safetensors")[0]
    pyro.set_rng_seed(5)
    x = generate(net, 6, 2, progress=False).numpy()
    unit = load_arrays(walks).standardiser
    np.testing.assert_allclose(made, unit.invert(x), rtol=1e-5)
    assert (tmp_path / "generated.png").stat().st_size > 1000
    asked = json.loads((tmp_path / "generated.json").read_text())
    assert (asked["steps"], asked["seed"], asked["given_steps"]) == (6, 5, 0)
    assert str(tmp_path / "sequence-1.csv") in capsys.readouterr().out


def test_a_beginning_with_a_gap_is_refused_and_a_mean_takes_no_digits(tmp_path, capsys):
    """Seconds since 1970: what float32 would make of them is wrong by minutes."""
    rng = np.random.default_rng(0)
    series = [np.column_stack([1.7e9 + rng.normal(size=9).cumsum(), rng.normal(size=9)]) for _ in range(9)]
    for array in series:
        array[1, 1] = np.nan
    np.savez(tmp_path / "times.npz", *series)
    main(
        [*train(tmp_path / "times.npz", tmp_path / "run", steps=1), "--loader", "missing=mark", "--test-particles", "0"]
    )
    said = refused(capsys, "generate", tmp_path / "run", "--prefix", 0)
    assert "step 1 of its beginning is missing; give less of it (--prefix-steps 1)" in said
    words = ["--prefix", 0, "--prefix-steps", 1, "--steps", 20, "--count", 1]
    main([str(word) for word in ("generate", tmp_path / "run", *words)])
    made = table(tmp_path / "run" / "generated" / "sequence-0.csv")
    given = {float(array[0, 0]) for array in series}
    assert min(abs(made[0, 0] - time) for time in given) < 1e-4
    assert len(np.unique(made[:, 0])) == 21


def test_it_goes_on_from_a_sequence_of_the_data(finished, walks, tmp_path):
    corpus = load_arrays(walks)
    name = corpus.test.names[1]
    for prefix in (name, "1"):
        folder = tmp_path / prefix
        words = ["--steps", 3, "--count", 3, "--prefix", prefix, "--prefix-steps", 4, "--batch-size", 2]
        main([str(word) for word in ("generate", finished, *words, "--output", folder)])
        made = [table(folder / f"sequence-{i}.csv") for i in range(3)]
        given = corpus.standardiser.invert(corpus.test[1][:4].astype(np.float64))
        for one in made:
            assert one.shape == (7, 2)
            np.testing.assert_allclose(one[:4], given, rtol=1e-5)
        assert not np.allclose(made[0][4:], made[2][4:])


def test_low_temperatures_make_sequences_alike(finished, tmp_path):
    spread = {}
    for name, options in {"model": (), "cold": ("--temperature", "0.01", "--latent-temperature", "0.01")}.items():
        words = ["--steps", "2", "--count", "16", *options, "--output", str(tmp_path / name)]
        main(["generate", str(finished), *words])
        spread[name] = np.std([table(tmp_path / name / f"sequence-{i}.csv")[0] for i in range(16)], axis=0).mean()
    assert spread["cold"] < spread["model"] / 2
    by_name = ["--steps", "2", "--count", "1", "--latent-temperature", "z1=0.5", "z3=2"]
    main(["generate", str(finished), *by_name, "--output", str(tmp_path / "by name")])


def test_what_cannot_be_generated_is_refused(finished, capsys):
    assert "must be at least 1" in refused(capsys, "generate", finished, "--steps", 0)
    assert "the test part has no such sequence; it has 2, 0 to 1" in refused(
        capsys, "generate", finished, "--prefix", 9
    )
    said = refused(capsys, "generate", finished, "--prefix", 0, "--prefix-steps", 99)
    assert "--prefix-steps 99: the sequence has" in said
    assert "--prefix-steps goes with --prefix" in refused(capsys, "generate", finished, "--prefix-steps", 3)
    assert "--seed must be from 0 to 4294967295, not -1" in refused(capsys, "generate", finished, "--seed", -1)
    assert "expected a number" in refused(capsys, "generate", finished, "--latent-temperature", "cold")
    assert "there is no latent 'z9'" in refused(capsys, "generate", finished, "--latent-temperature", "z9=1")
    assert "temperature must be from" in refused(capsys, "generate", finished, "--temperature", 0)


def test_strokes_and_sound(tmp_path):
    data = synthetic_strokes(tmp_path / "corpus")
    main([*train(data, tmp_path / "words", corpus="strokes", steps=1), "--test-particles", "0"])
    main(["generate", str(tmp_path / "words"), "--steps", "20", "--count", "2", "--prefix", "0", "--bias", "1"])
    folder = tmp_path / "words" / "generated"
    with np.load(folder / "strokes.npz") as file:
        lines = [file[f"sequence-{i}"] for i in range(2)]
    real = load_strokes(data)
    first = real.standardiser.invert(real.test[0].astype(np.float64))
    assert len(lines[0]) == len(first) // 2 + 20
    np.testing.assert_allclose(lines[1][: len(first) // 2], first[: len(first) // 2], atol=1e-3)
    assert set(np.unique(lines[0][:, 2])) <= {0, 1}
    assert {path.suffix for path in folder.iterdir()} == {".npz", ".png", ".svg", ".json"}

    speech = synthetic_timit(tmp_path / "speech", speakers=(4, 1), sentences=2)
    main([*train(speech, tmp_path / "sound", corpus="timit", steps=1), "--test-particles", "0"])
    main(["generate", str(tmp_path / "sound"), "--steps", "10", "--count", "1"])
    assert len(read_audio(tmp_path / "sound" / "generated" / "sequence-0.wav", expected_rate=16000).samples) == 2000
    main(["generate", str(tmp_path / "sound"), "--steps", "1", "--count", "1"])  # shorter than a spectrogram's window


def test_a_model_that_does_not_know_its_unit_is_refused(tmp_path, capsys):
    save_model(tmp_path / "model.safetensors", small_stcn())
    assert "do not say how to get back to raw data" in refused(capsys, "generate", tmp_path / "model.safetensors")
