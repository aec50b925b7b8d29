"""A release is read from its files to the last bit, or refused with one error that names the file and what is wrong."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_stcn import published_files
from pyro_stcn.checkpoint import CheckpointError
from pyro_stcn.data import DataError, Standardiser
from pyro_stcn.models import STCN
from pyro_stcn.published import load_published
from pyro_stcn.published_files import load_released, read_config, read_statistics, read_variables

from .recorded import CASES, FIXTURES, PATHS, config_of, weights_of, with_slots
from .small import FixedNoise
from .tensor_bundle import write_bundle


def write_run(folder, case, *, prefix="model-1234"):
    """A run's folder as that code leaves it."""
    folder.mkdir(parents=True)
    write_bundle(folder / prefix, with_slots(weights_of(case)))
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "model-1"\n')
    (folder / "config.json").write_text(json.dumps(config_of(case)))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", "ink_dense_gmm")


# ------------------------------------------------------------------------------------------------------- whole releases


@pytest.mark.parametrize("case", CASES)
def test_every_recorded_case_comes_back(tmp_path, case):
    released = load_released(write_run(tmp_path / "run", case))
    expected = load_published(config_of(case), weights_of(case))
    assert released.net.config == expected.config
    ours, theirs = released.net.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert released.config == config_of(case)
    count = len(weights_of(case))
    assert {kind: len(names) for kind, names in released.variables.dropped.items()} == {
        "Adam's moments": 2 * count,
        "Adam's powers of beta": 2,
        "the number of updates": 1,
    }
    assert f"{count} variables" in str(released)
    assert f"Adam's moments ({2 * count})" in str(released)
    if isinstance(released.net, STCN):
        assert released.net.config.ladder.merge == "eq11"


def test_a_checkpoint_of_tensorflow_itself_gives_the_recorded_likelihood():
    """From its files to the number that the authors' code printed."""
    case = "vrnn_gmm_zero_noise"
    released = load_released(FIXTURES / "tensorflow", PATHS[case])
    with np.load(PATHS[case].with_suffix(".npz")) as file:
        x, recorded = torch.from_numpy(file["x"].astype("f4")), file["evaluation/loglik_per_step"]
        mask = torch.arange(x.shape[1]) < torch.from_numpy(file["lengths"])[:, None]

    with FixedNoise({"z1": torch.zeros(*x.shape[:2], released.config["latent_size"])}):
        released.net.guide(x)
    model_trace, _ = released.net.guide.get_traces()
    joint = model_trace.nodes["x"]["fn"]
    steps = joint.base_dist.to_event(joint.reinterpreted_batch_ndims - 1)
    found = torch.where(mask, steps.log_prob(x), 0.0).detach().numpy()
    np.testing.assert_allclose(found, recorded[..., 0], rtol=1e-4, atol=1e-4)
    assert "24 of them constants in that code" in str(released)


def test_every_way_to_name_a_checkpoint(run, tmp_path):
    expected = read_variables(run)
    names = ("model-1234", "model-1234.index", "model-1234.data-00000-of-00001", "model-1234.meta", "checkpoint")
    for name in names:
        found = read_variables(run / name)
        assert found.path == run / "model-1234"
        assert found.weights.keys() == expected.weights.keys()
        assert load_released(run / name).net.config == load_released(run).net.config
    (run / "checkpoint").write_text('model_checkpoint_path: "/home/somebody/runs/tf-1/model-1234"\n')  # as it was there
    assert read_variables(run).path == run / "model-1234"
    (run / "checkpoint").unlink()
    assert read_variables(run).path == run / "model-1234"


def test_an_npz_of_the_variables(tmp_path):
    weights = weights_of("wavenet_gmm")
    np.savez(tmp_path / "variables.npz", **with_slots(weights))
    (tmp_path / "other.json").write_text(json.dumps(config_of("wavenet_gmm")))
    released = load_released(tmp_path / "variables.npz", tmp_path / "other.json")
    assert released.variables.weights.keys() == weights.keys()
    assert all(np.array_equal(released.variables.weights[name], value) for name, value in weights.items())


def test_what_is_no_weight_is_left_out_by_known_names_alone(tmp_path):
    known = [
        *("a/Adam", "a/Adam_1", "training/a/Adam_1", "beta1_power", "train/beta2_power_1", "global_step"),
        *("a/Momentum", "a/RMSProp_1", "a/ExponentialMovingAverage"),
    ]
    unknown = ["a", "Adams/kernel", "a/Adam/kernel", "step", "my_global_step", "a/bias"]
    arrays = {name: np.zeros(2, "f4") for name in known + unknown}
    found = read_variables(write_bundle(tmp_path / "model", arrays))
    assert set(found.weights) == set(unknown)
    assert sorted(name for names in found.dropped.values() for name in names) == sorted(known)


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_a_missing_checkpoint_is_named_before_its_configuration(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no nowhere.index in"):
        load_released(tmp_path / "nowhere")
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json of the run has to be there, or be given"):
        load_released(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("latent/p_1_mu/conv1d_1/kernel"), "missing variables: latent/p_1_mu/conv1d_1/kernel"),
        (lambda w: w.update({"extra/kernel": np.zeros(2, "f4")}), "the first 'extra/kernel'"),
        (lambda w: w.update({"latent/p_1_mu/conv1d_1/bias": np.zeros(2, "f4")}), "p_1_mu/conv1d_1/kernel' has shape"),
        (lambda w: w.update({"extra/count": np.zeros(2, "i8")}), "the first 'extra/count'"),
    ],
)
def test_variables_that_do_not_fit_are_named_with_both_files(run, change, message):
    weights = weights_of("ink_dense_gmm")
    change(weights)
    write_bundle(run / "model-1234", with_slots(weights))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_released(run)
    assert str(run / "model-1234") in str(caught.value)
    assert str(run / "config.json") in str(caught.value)


def test_a_missing_option_is_named_with_its_file(run):
    config = config_of("ink_dense_gmm")
    del config["cnn_layer"]["filter_size"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json: there is no 'cnn_layer.filter_size' in the configuration"):
        load_released(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "has no 'model_cls'"),
        (b"{}", "has no 'model_cls'"),
        (b"\xff\xfe", "is no text"),
        (b" " * (2**20 + 1), "has more than 1048576 bytes"),
    ],
)
def test_configurations_that_are_none(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"config.json {message}"):
        read_config(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"other.json does not exist"):
        read_config(tmp_path / "other.json")


def test_folders_that_name_no_checkpoint(run, tmp_path):
    for content, message in (
        ("", "checkpoint names no checkpoint: give the path of one; there are: model-1234"),
        ('model_checkpoint_path: "gone-5"', "checkpoint names gone-5, and there is no gone-5.index beside it"),
        ('model_checkpoint_path: "../../other"', "checkpoint names other, and there is no other.index"),
        ("x" * (2**16 + 1), "has more than 65536 bytes"),
    ):
        (run / "checkpoint").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_variables(run)
    (run / "checkpoint").unlink()
    write_bundle(run / "model-5", {"a": np.zeros(2, "f4")})
    with pytest.raises(CheckpointError, match="has no file 'checkpoint' and 2 checkpoints"):
        read_variables(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="has no file 'checkpoint' and 0 checkpoints"):
        read_variables(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="there is no model-7.index in .*; there are: model-1234, model-5"):
        read_variables(run / "model-7")


def test_other_files_given_as_a_checkpoint(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "old").write_bytes(bytes(40) + published_files.MAGIC)
    with pytest.raises(CheckpointError, match="empty is no TensorFlow checkpoint"):
        read_variables(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="old is of TensorFlow's format V1, .* write the variables to an .npz"):
        read_variables(tmp_path / "old")


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[:-7]),
        lambda p: p.write_bytes(p.read_bytes()[:100]),
        lambda p: p.write_bytes(p.read_bytes()[:400] + b"wrong" * 200 + p.read_bytes()[1400:]),
        lambda p: p.unlink(),
    ],
)
@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
def test_damaged_files_give_one_error(run, damage, part):
    damage(run / f"model-1234.{part}")
    with pytest.raises(CheckpointError, match="model-1234"):
        load_released(run)


class Danger:
    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def test_an_npz_that_is_damaged_or_would_run_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "variables.npz"
    np.savez(path, good=np.zeros(3), bad=np.array([Danger()], dtype=object))
    with pytest.raises(DataError, match="'bad' is an array of objects"):
        read_variables(path)
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-30], b"wrong" + whole):
        path.write_bytes(content)
        with pytest.raises(DataError, match="variables.npz"):
            read_variables(path)
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(DataError, match="is no .npz file"):
        read_variables(path)
    np.savez_compressed(path, big=np.zeros(10**6))
    with pytest.raises(DataError, match="max_bytes is 100000"):
        read_variables(path, max_bytes=10**5)
    assert not (tmp_path / "was-run").exists()


# ----------------------------------------------------------------------------------------------------------- statistics

STATISTICS = {
    "mean_all": np.float64(1.5),
    "std_all": np.float64(2.5),
    "mean_channel": np.array([1.0, 2.0, 0.0]),
    "std_channel": np.array([3.0, 4.0, 1.0]),
    "mean_sequence": np.array([[[5.0, 6.0, 0.0]]]),
    "std_sequence": np.array([[[7.0, 8.0, 1.0]]]),
}


def released_net(case):
    return load_published(config_of(case), weights_of(case))


@pytest.fixture
def statistics(tmp_path):
    """As the data of that code have them: a dict, which numpy pickles, beside the samples."""
    path = tmp_path / "data.npz"
    samples = np.empty(2, dtype=object)
    samples[:] = [np.zeros((4, 3)), np.zeros((5, 3))]
    np.savez(path, samples=samples, statistics=STATISTICS)
    return path


@pytest.mark.parametrize(
    ("case", "options", "expected"),
    [
        ("speech_dense_gmm", {}, Standardiser(1.5, 2.5)),
        ("speech_dense_gmm", {"pp_zero_mean_norm_all_stats": True}, Standardiser(1.5, 2.5)),
        ("ink_dense_gmm", {"data_type": "iam"}, Standardiser((5.0, 6.0, 0.0), (7.0, 8.0, 1.0))),
        ("ink_dense_gmm", {"data_type": "dw"}, Standardiser((1.0, 2.0, 0.0), (3.0, 4.0, 1.0))),
        (
            "ink_dense_gmm",
            {"data_type": "iam", "pp_zero_mean_norm_seq_stats": False, "pp_zero_mean_normalization": True},
            Standardiser((1.0, 2.0, 0.0), (3.0, 4.0, 1.0)),
        ),
    ],
)
def test_the_statistics_that_a_run_applied(statistics, case, options, expected):
    assert read_statistics(statistics, {**config_of(case), **options}, released_net(case)) == expected


def test_statistics_without_a_pickle(tmp_path):
    np.savez(tmp_path / "plain.npz", mean_all=1.5, std_all=2.5)
    config = config_of("speech_dense_gmm")
    assert read_statistics(tmp_path / "plain.npz", config, released_net("speech_dense_gmm")) == Standardiser(1.5, 2.5)


@pytest.mark.parametrize(
    ("case", "options", "held", "message"),
    [
        ("speech_dense_gmm", {"data_type": "other"}, STATISTICS, "exactly one of"),
        ("speech_dense_gmm", {"pp_zero_mean_norm_all_stats": False}, STATISTICS, "exactly one of"),
        (
            "speech_dense_gmm",
            {"pp_zero_mean_norm_all_stats": True, "pp_zero_mean_normalization": True},
            STATISTICS,
            "exactly one of",
        ),
        ("speech_dense_gmm", {}, {"mean_all": 1.0}, "have no std_all"),
        ("speech_dense_gmm", {}, {"mean_all": "a", "std_all": 1.0}, "are not numbers of one shape"),
        ("speech_dense_gmm", {}, {"mean_all": 0.0, "std_all": 0.0}, "every entry must be positive"),
        ("speech_dense_gmm", {}, {"mean_all": np.nan, "std_all": 1.0}, "must be finite"),
        ("speech_dense_gmm", {}, {"mean_all": np.zeros(3), "std_all": np.ones(3)}, "do not fit a standardiser of 3"),
        (
            "ink_dense_gmm",
            {"data_type": "dw"},
            {"mean_channel": np.zeros(3), "std_channel": np.full(3, 2.0)},
            "channel 2 is a bit with a probability",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, case, options, held, message):
    np.savez(tmp_path / "data.npz", statistics=held)
    with pytest.raises(DataError, match=message) as caught:
        read_statistics(tmp_path / "data.npz", {**config_of(case), **options}, released_net(case))
    assert "data.npz" in str(caught.value)


def test_statistics_that_would_run_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "data.npz", statistics={"mean_all": Danger()})
    with pytest.raises(DataError, match="nothing in it was run"):
        read_statistics(tmp_path / "data.npz", config_of("speech_dense_gmm"), released_net("speech_dense_gmm"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("statistics.npy", b"no array")
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="'statistics' is not a readable array"):
        read_statistics(tmp_path / "data.npz", config_of("speech_dense_gmm"), released_net("speech_dense_gmm"))
    assert not (tmp_path / "was-run").exists()
