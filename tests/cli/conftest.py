"""A small data set, and runs on it that tests may look at but not change."""

import numpy as np
import pytest

from pyro_stcn.cli import main


@pytest.fixture(scope="session")
def walks(tmp_path_factory):
    """Return an .npz of 20 random walks of two channels."""
    rng = np.random.default_rng(0)
    arrays = {f"walk{i}": rng.normal(size=(int(n), 2)).cumsum(0) + 50 for i, n in enumerate(rng.integers(8, 14, 20))}
    path = tmp_path_factory.mktemp("walks") / "walks.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def finished(walks, tmp_path_factory):
    """Return the folder of a finished run of four updates."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    main([*train(walks, folder), "--test-particles", "2"])
    return folder


def train(data, output, *more, corpus="arrays", steps=4):
    """Return the words of a short training."""
    words = ["train", "--corpus", corpus, "--data", data, "--output", output, "--steps", steps, "--batch-size", 4]
    return [str(word) for word in (*words, "--evaluate-every", 2, "--log-every", 1, "--seed", 3, *more)]


def refused(capsys, *words, code=1):
    """Run a command that must fail, and return what it said, which must be no traceback."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said
