"""Every picture comes out, also of the least that can be drawn; warnings are errors here."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

from pyro_stcn import plots
from pyro_stcn.comparison import Score, by_system
from pyro_stcn.handwriting import HISTOGRAMS, stroke_statistics
from pyro_stcn.models import Evidence

RNG = np.random.default_rng(0)
KL = {"z1": RNG.uniform(1, 3, 20), "z2": RNG.uniform(100, 300, 20), "z3": RNG.uniform(0.01, 0.03, 20)}


@pytest.fixture(autouse=True)
def _drawn_and_closed():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # some warnings come only now
    plt.close("all")


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def run(tmp_path):
    """A folder with the logs of a run of 40 steps, annealed at step 20."""
    steps = range(1, 41)
    train = [{"step": t, "objective": -1e4 / t, "kl_weight": min(1.0, 0.05 * t)} for t in steps]
    write(tmp_path / "train.csv", train)
    write(tmp_path / "valid.csv", [{"step": t, "objective": -300.0, "standard_error": 5.0} for t in (10, 20, 30, 40)])
    return tmp_path


SAMPLES = np.sin(np.arange(4000) / 3)
STROKES = np.array([[5, 5, 0], [10, 0, 0], [0, 10, 1], [20, 0, 1], [5, -5, 0], [5, 5, 0]], dtype=np.float32)
SCORES = [
    Score(system, seed, kind, "a figure", (nats, nats + 1.0), (nats, nats), 10, 0.1, 5, {"test": "t"})
    for system, kind, nats in (("deterministic", Evidence.EXACT, 3.0), ("latent", Evidence.LOWER_BOUND, 5.0))
    for seed in (0, 1)
]

PICTURES = {
    "training_curve": lambda run, **ax: plots.training_curve(run, **ax),
    "kl_by_layer": lambda run, **ax: plots.kl_by_layer(KL, **ax),
    "waveform": lambda run, **ax: plots.waveform(SAMPLES, 16_000, **ax),
    "spectrogram": lambda run, **ax: plots.spectrogram(SAMPLES, 16_000, **ax),
    "strokes": lambda run, **ax: plots.strokes(STROKES, **ax),
    "channels": lambda run, **ax: plots.channels(STROKES, names=("dx", "dy", "pen"), prefix=2, **ax),
    "rows": lambda run, **ax: plots.rows(STROKES > 0, names=("C4", "E4", "G4"), prefix=2, **ax),
    "comparison": lambda run, **ax: plots.comparison(by_system(SCORES), **ax),
}
LINES = {"real": [STROKES, STROKES[:3]], "a system": [2 * STROKES, np.zeros((0, 3))], "another": [STROKES[3:4]]}
STATISTICS = {
    name: stroke_statistics(lines, stroke_statistics(LINES["real"]).edges)
    for name, lines in {"real": LINES["real"], "a system": [2 * STROKES], "a dot": [STROKES[:1]]}.items()
}
GRIDS = {  # these take and return arrays of Axes
    "handwriting": lambda **axes: plots.handwriting(LINES, **axes),
    "stroke_histograms": lambda **axes: plots.stroke_histograms(STATISTICS, **axes),
}


def test_every_picture_is_tried():
    assert {*PICTURES, *GRIDS, "save"} == set(plots.__all__)


def test_a_picture_is_saved_as_png_and_svg_and_equal_pictures_give_equal_files(tmp_path):
    files = []
    for name in ("a.first", "b"):
        axes = plots.waveform(np.sin(np.arange(30)), 10)
        files += plots.save(axes.figure, tmp_path / name)
        assert not plt.fignum_exists(axes.figure.number), "it is closed"
    assert [file.name for file in files] == ["a.first.png", "a.first.svg", "b.png", "b.svg"]
    assert files[0].read_bytes() == files[2].read_bytes()
    assert files[1].read_bytes() == files[3].read_bytes()


@pytest.mark.parametrize("name", GRIDS)
def test_arrays_of_axes_come_and_go(name):
    new = GRIDS[name]()
    assert new.shape == (3,)
    assert all(ax.has_data() for ax in new)
    _, (left, *rest) = plt.subplots(1, 4)
    assert GRIDS[name](axes=np.array(rest)).tolist() == rest
    assert all(ax.has_data() for ax in rest)
    assert not left.has_data()


@pytest.mark.parametrize("name", PICTURES)
def test_axes_come_and_go(name, run):
    new = PICTURES[name](run)
    assert isinstance(new, Axes)
    assert new.has_data()
    _, (left, right) = plt.subplots(1, 2)
    assert PICTURES[name](run, ax=right) is right
    assert right.has_data()
    assert not left.has_data()


# ------------------------------------------------------------------------------------------------------- training curve


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_training_curve_draws_the_logs(run):
    ax = plots.training_curve(run)
    train = lines(ax)["training batch"]
    assert train.get_xdata().tolist() == list(range(1, 41))
    assert train.get_ydata()[3] == -2500
    assert lines(ax)["KL weight reaches 1"].get_xdata()[0] == 20
    (errorbar,) = ax.containers
    assert errorbar.lines[0].get_xdata().tolist() == [10, 20, 30, 40]
    assert ax.get_ylim()[0] > -6000, "the first step does not set the scale"


def test_training_curve_without_validation(run):
    (run / "valid.csv").unlink()
    assert not plots.training_curve(run).containers


def test_training_curve_before_annealing_has_ended(run):
    write(run / "train.csv", [{"step": t, "objective": -1.0 * t, "kl_weight": 0.01 * t} for t in (1, 2)])
    assert "KL weight reaches 1" not in lines(plots.training_curve(run))


def test_training_curve_of_one_step(run):
    write(run / "train.csv", [{"step": 1, "objective": -3.0, "kl_weight": 1.0}])
    (run / "valid.csv").unlink()
    low, high = plots.training_curve(run).get_ylim()
    assert low < -3 < high


def test_training_curve_of_a_validation_of_one_sequence(run):
    write(run / "valid.csv", [{"step": 10, "objective": -300.0, "standard_error": "nan"}])
    assert plots.training_curve(run).containers


def test_training_curve_of_a_log_without_rows(run):
    (run / "valid.csv").write_text("step,bound,standard_error\n")  # a run resumed before its first validation
    assert not plots.training_curve(run).containers
    (run / "train.csv").write_text("step,bound,kl_weight\n")
    with pytest.raises(ValueError, match="train.csv has no rows yet"):
        plots.training_curve(run)


def test_training_curve_of_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.csv"):
        plots.training_curve(tmp_path)


# ----------------------------------------------------------------------------------------------------------- the others


def test_kl_bars_have_the_means(run):
    ax = plots.kl_by_layer(KL)
    assert [bar.get_width() for bar in ax.patches] == [KL[name].mean() for name in KL]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(KL)
    low, high = ax.get_xlim()
    assert low < min(bar.get_width() for bar in ax.patches), "every bar can be seen"
    assert high > max(bar.get_width() for bar in ax.patches)


@pytest.mark.parametrize(
    "kl",
    [
        {"z1": np.array([3.0])},
        {"z1": np.array([3.0, 4.0]), "z2": np.zeros(2)},
        {"z1": np.zeros(2), "z2": np.zeros(2)},
        {"z1": np.zeros(1)},
        {"z1": np.array([1e-9, 2e-9])},
    ],
    ids=["one sequence", "one layer off", "all layers off", "one sequence off", "nearly off"],
)
def test_kl_bars_of_little(kl):
    ax = plots.kl_by_layer(kl)
    assert len(ax.patches) == len(kl)
    assert ax.get_xscale() == "log"
    assert 0 < ax.get_xlim()[0] < ax.get_xlim()[1]


def test_waveform_is_in_seconds():
    ax = plots.waveform(SAMPLES, 16_000, color="k")
    assert ax.get_xlim() == (0, 0.25)
    (line,) = ax.get_lines()
    assert line.get_xdata()[-1] == pytest.approx(0.25, abs=1e-4)
    assert line.get_color() == "k"


def test_spectrogram_finds_a_tone():
    rate = 16_000
    ax = plots.spectrogram(np.sin(2 * np.pi * 3000 * np.arange(rate) / rate), rate)
    (image,) = ax.get_images()
    power = image.get_array()
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (0, 1, 0, 8)
    peak = power.mean(1).argmax() / power.shape[0] * top
    assert peak == pytest.approx(3, abs=0.05)


def test_spectrogram_of_silence_and_of_integers():
    for samples in (np.zeros(4000), (1000 * SAMPLES).astype(np.int16)):
        assert plots.spectrogram(samples, 16_000).has_data()


def test_spectrogram_shorter_than_a_window():
    with pytest.raises(ValueError, match="100 samples are shorter than a window of 256"):
        plots.spectrogram(np.zeros(100), 16_000)


def test_strokes_are_lines_from_pen_down_to_pen_up():
    ax = plots.strokes(STROKES)
    drawn = [line.get_xydata().tolist() for line in ax.get_lines()]
    assert drawn == [[[5, 5], [15, 5], [15, 15]], [[35, 15]], [[40, 10], [45, 15]]]  # a stroke, a dot, an open end
    assert [line.get_marker() for line in ax.get_lines()] == ["None", ".", "None"]
    assert ax.get_aspect() == 1
    assert plots.strokes(STROKES, ax).yaxis_inverted()  # and stays so on the same axes
    assert not plots.strokes(STROKES, invert_y=False).yaxis_inverted()


def test_handwriting_is_at_one_scale_and_lines_do_not_meet():
    axes = plots.handwriting(LINES)
    assert [ax.get_title(loc="left") for ax in axes] == list(LINES)
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in axes}) == 1
    assert all(ax.yaxis_inverted() and ax.get_aspect() == 1 for ax in axes)
    real, system, another = ([line.get_xydata() for line in ax.get_lines()] for ax in axes)
    assert [len(stroke) for stroke in real] == [3, 1, 2, 3], "two lines: a stroke, a dot, an open end; a stroke"
    first, second = np.concatenate(real[:3]), real[3]
    assert first[:, 0].min() == second[:, 0].min() == 0, "they begin at the left edge"
    assert np.diff(real[0], axis=0).tolist() == [[10, 0], [0, 10]]
    assert np.ptp(np.concatenate(system)[:, 1]) == 2 * np.ptp(first[:, 1])
    assert second[:, 1].min() > np.concatenate(system)[:, 1].max(), "rows are as high as their highest line"
    assert len(another) == 1
    bottom, top = axes[0].get_ylim()
    assert top < np.concatenate([*real, *system])[:, 1].min()
    assert second[:, 1].max() < bottom


def test_handwriting_upwards_is_its_mirror_image():
    down, up = plots.handwriting(LINES), plots.handwriting(LINES, invert_y=False)
    assert not up[0].yaxis_inverted()
    flipped = {name: [line * np.array([1, -1, 1]) for line in lines] for name, lines in LINES.items()}
    again = plots.handwriting(flipped, invert_y=False)
    assert np.allclose(again[1].get_lines()[0].get_xydata(), down[1].get_lines()[0].get_xydata() * [1, -1])
    heights = [line.get_ydata().mean() for line in up[0].get_lines()]
    assert heights[-1] < min(heights[:-1]), "the second line is below the first"


def test_handwriting_shows_what_was_given():
    """The first two steps of one line, in the middle of a stroke, and four of the other, a stroke and a dot."""
    (ax,) = plots.handwriting({"one": [STROKES, STROKES]}, prefix=[2, 4])
    drawn = [(len(line.get_xdata()), line.get_color()) for line in ax.get_lines()]
    assert drawn == [(2, "C1"), (2, "k"), (1, "k"), (2, "k"), (3, "C1"), (1, "C1"), (2, "k")]
    given, rest = (line.get_xydata().tolist() for line in ax.get_lines()[:2])
    assert given[-1] == rest[0], "the stroke goes on where the beginning ends"
    longer = np.concatenate([STROKES[:3], [[-500, -90, 0], [9, 9, 1]]])
    axes = plots.handwriting({"one": [STROKES], "two": [longer]}, prefix=3)
    first, second = (ax.get_lines()[0].get_xydata().tolist() for ax in axes)
    assert first == second, "the beginning is at the same place in the whole row"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {}, "no handwriting to draw"),
        ({"a": []}, {}, "no handwriting to draw"),
        ({"a": [STROKES[:0]]}, {}, "no handwriting to draw"),
        ({"a": [STROKES, STROKES]}, {"prefix": [1]}, "2 rows and 1 numbers of steps"),
        ({"a": [STROKES], "b": [STROKES]}, {"axes": np.array([None])}, "2 columns and 1 Axes"),
    ],
)
def test_handwriting_that_cannot_be_drawn(columns, options, message):
    with pytest.raises(ValueError, match=message):
        plots.handwriting(columns, **options)


def test_handwriting_of_dots_alone_and_of_very_long_lines():
    assert plots.handwriting({"a": [STROKES[:1]]})[0].has_data()
    wide, high = (np.array([[0, 0, 0], [*offset, 1]]) for offset in ((90_000, 9), (9, 90_000)))
    for lines in ([wide] * 3, [wide] * 300, [high] * 3, [high, wide]):
        width, height = plots.handwriting({"a": lines, "b": lines[:1]})[0].figure.get_size_inches()
        assert width < 25
        assert height < 41


def test_stroke_histograms_are_shares_over_the_bins():
    axes = plots.stroke_histograms(STATISTICS)
    for ax, name in zip(axes, HISTOGRAMS, strict=True):
        for patch, made in zip(ax.patches, STATISTICS.values(), strict=True):
            values, edges, _ = patch.get_data()
            assert values.tolist() == (100 * made.histogram(name)).tolist()
            scale = 180 / np.pi if name == "direction" else 1
            assert np.allclose(edges, scale * made.edges[name])
        assert ax.patches[0].get_fill()
        assert not ax.patches[1].get_fill()
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == list(STATISTICS)
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["right", "down", "left", "up"]
    upwards = plots.stroke_histograms(STATISTICS, invert_y=False)[2]
    assert [label.get_text() for label in upwards.get_xticklabels()] == ["right", "up", "left", "down"]


def test_comparison_puts_the_best_on_top_and_tells_exact_from_bound():
    ax = plots.comparison(by_system(SCORES))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["deterministic", "latent"]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"exact log-likelihood", "lower bound"}
    low, high = ax.get_xlim()
    assert low < 3.0 < 6.0 < high, "the error bars are inside"
