"""Statistics of pen strokes against values worked out by hand, and distances that can be told beforehand."""

import math

import numpy as np
import pytest

from pyro_stcn.handwriting import (
    FIGURES,
    HISTOGRAMS,
    distance_floor,
    end_at_pen_up,
    histogram_distance,
    is_whole,
    markdown_table,
    prefix_length,
    stroke_edges,
    stroke_statistics,
    to_whole,
)

# To (7, 7) without ink; 3 right, 4 down, pen up; jump (3, 4) to a dot; jump 6 right; 5 left; the end breaks it off.
ONE = np.array([[7, 7, 0], [3, 0, 0], [0, 4, 1], [3, 4, 1], [6, 0, 0], [-5, 0, 0]], dtype=np.float32)
# A stroke of three points, 2 up in all.
TWO = np.array([[0, 0, 0], [0, -1, 0], [0, -1, 1]], dtype=np.float32)
EDGES = {
    "step length": np.array([0.0, 2.0, 4.0, 4.5]),
    "jump length": np.array([0.0, 5.5, 10.0]),
    "direction": (np.arange(5) - 0.5) * np.pi / 2,  # right, down, left, up where y grows downwards
}


def scribble(rng, steps, *, scale=1.0):
    """Make a sequence of moves in all directions, with the pen up at about every fifth point and at the end."""
    pen = rng.random(steps) < 0.2
    pen[-1] = True
    return np.column_stack([scale * rng.normal(size=(steps, 2)), pen]).astype(np.float32)


@pytest.fixture
def scribbles():
    rng = np.random.default_rng(0)
    return [scribble(rng, steps) for steps in rng.integers(10, 40, 60)]


# ----------------------------------------------------------------------------------------------------------- statistics


def test_histograms_count_steps_with_ink_and_jumps_without():
    made = stroke_statistics([ONE, TWO], EDGES)
    assert len(made) == 2
    assert made.counts["step length"].tolist() == [[0, 1, 2], [2, 0, 0]], "3, 4 and 5, which is beyond the last edge"
    assert made.counts["jump length"].tolist() == [[1, 1], [0, 0]], "5 and 6"
    assert made.counts["direction"].tolist() == [[1, 1, 1, 0], [0, 0, 0, 2]]
    assert made.histogram("step length").tolist() == [0.4, 0.2, 0.4]
    assert made.histogram("direction").tolist() == [0.2, 0.2, 0.2, 0.4]


def test_figures_are_those_worked_out_by_hand():
    made = stroke_statistics([ONE, TWO], EDGES)
    expected = {
        "pen-ups per 100 points": 100 * 3 / 9,
        "points per stroke": 9 / 4,  # the one that the end breaks off counts
        "ink per stroke": (3 + 4 + 5 + 2) / 4,
        "strokes": 4 / 2,
        "width": (12 + 0) / 2,  # x is 7, 10, 10, 13, 19, 14
        "height": (8 + 2) / 2,  # y is 7, 7, 11, 15, 15, 15
        "width / height": 12 / 10,
    }
    assert {name: made.figure(name).mean for name in FIGURES} == pytest.approx(expected)
    # 3 and 1 strokes: mean 2, deviation sqrt(2), error 1
    assert made.figure("strokes").standard_error == pytest.approx(1)
    # points - 9/4 strokes is -0.75 and 0.75: its mean's error is 0.75, and there are 2 strokes a sequence
    assert made.figure("points per stroke").standard_error == pytest.approx(0.75 / 2)
    assert {made.figure(name).count for name in FIGURES} == {2}


def test_the_error_of_a_ratio_is_that_of_the_bootstrap(scribbles):
    made, rng = stroke_statistics(scribbles), np.random.default_rng(1)
    drawn = [rng.integers(60, size=60) for _ in range(2000)]
    for name in ("points per stroke", "width / height"):
        above, below = (made.totals[total] for total in FIGURES[name])
        bootstrap = np.std([above[i].sum() / below[i].sum() for i in drawn])
        assert made.figure(name).standard_error == pytest.approx(bootstrap, rel=0.1)


def test_where_a_sequence_begins_on_the_paper_is_no_statistic():
    moved = TWO.copy()
    moved[0, :2] = [500, -300]
    here, there = stroke_statistics([TWO], EDGES), stroke_statistics([moved], EDGES)
    assert all(np.array_equal(here.counts[name], there.counts[name]) for name in HISTOGRAMS)
    assert {name: values.tolist() for name, values in here.totals.items()} == {
        name: values.tolist() for name, values in there.totals.items()
    }


def test_directions_are_binned_around_the_turn():
    """A hair above and below the direction to the right is one bin, and to the left another."""
    for angle, bins in ((-0.01, 0), (0.01, 0), (np.pi - 0.01, 8), (-np.pi + 0.01, 8), (-np.pi / 2, 12)):
        line = np.array([[0, 0, 0], [10 * np.cos(angle), 10 * np.sin(angle), 1]])
        assert stroke_statistics([line]).counts["direction"][0].argmax() == bins
    assert not stroke_statistics([np.array([[0, 0, 0], [0, 0, 1]])]).counts["direction"].any(), "a step to nowhere"


def test_default_bins_fit_the_data(scribbles):
    edges = stroke_edges(scribbles)
    lengths = np.concatenate([np.hypot(*s[1:, :2].T)[s[:-1, 2] < 0.5] for s in scribbles])
    assert np.mean(lengths < edges["step length"][-1]) == pytest.approx(0.98, abs=0.003)
    assert {name: len(edges[name]) for name in HISTOGRAMS} == {"step length": 21, "jump length": 21, "direction": 17}
    made = stroke_statistics(scribbles)
    assert made.counts["step length"].sum() == len(lengths), "what is longer is counted, too"
    assert all(made.histogram(name).sum() == pytest.approx(1) for name in HISTOGRAMS)


@pytest.mark.parametrize("line", [[[0, 0, 1]], [[0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], ids=["a dot", "a point", "still"])
def test_statistics_of_little(line):
    made = stroke_statistics([np.array(line, dtype=float)])
    assert made.figure("strokes").mean == 1
    assert math.isnan(made.figure("strokes").standard_error)
    assert math.isnan(made.figure("width / height").mean)
    assert "| real | 1 |" in markdown_table(made, {"the same": made})


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "no sequences"),
        ([TWO, np.zeros((4, 2))], r"sequence 1 has shape \(4, 2\), expected \(T, 3\)"),
        ([np.zeros((0, 3))], "sequence 0 has shape"),
        ([TWO, TWO * np.nan], "sequence 1 has values that are not finite"),
    ],
)
def test_what_is_no_handwriting_is_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        stroke_statistics(sequences)


# ------------------------------------------------------------------------------------------------------------ distances


def test_equal_data_are_at_distance_0_and_disjoint_ones_at_1(scribbles):
    real = stroke_statistics(scribbles)
    right = stroke_statistics([np.array([[0, 0, 0], [90, 0, 1], [90, 0, 0]])] * 5, real.edges)
    left = stroke_statistics([np.array([[0, 0, 0], [-0.001, 0, 1], [-0.001, 0, 0]])] * 5, real.edges)
    for name in HISTOGRAMS:
        assert histogram_distance(real, real, name).mean == 0
        apart = histogram_distance(left, right, name)
        assert (apart.mean, apart.standard_error, apart.count) == (1, 0, 5)
        assert histogram_distance(real, right, name).mean == histogram_distance(right, real, name).mean
        assert 0 < histogram_distance(real, right, name).mean < 1


def test_a_distance_worked_out_by_hand():
    one, two = stroke_statistics([ONE], EDGES), stroke_statistics([TWO], EDGES)
    both = stroke_statistics([ONE, TWO], EDGES)
    assert histogram_distance(one, both, "step length").mean == pytest.approx((0.4 + (1 / 3 - 0.2) + (2 / 3 - 0.4)) / 2)
    assert math.isnan(histogram_distance(one, both, "step length").standard_error)
    assert histogram_distance(one, two, "jump length").mean == 1, "jumps against none"
    assert histogram_distance(two, two, "jump length").mean == 0, "none against none"


def test_bins_must_be_the_same():
    with pytest.raises(ValueError, match="the bins of 'step length' differ: give stroke_statistics"):
        histogram_distance(stroke_statistics([ONE]), stroke_statistics([ONE], EDGES), "step length")


def test_the_error_of_a_distance_is_how_it_varies_between_samples():
    rng = np.random.default_rng(0)
    real = stroke_statistics([scribble(rng, 20) for _ in range(100)])
    samples = [
        [stroke_statistics([scribble(rng, 20, scale=s) for _ in range(100)], real.edges) for s in (1.0, 1.6)]
        for _ in range(30)
    ]
    distances = [histogram_distance(narrow, wide, "step length") for narrow, wide in samples]
    varies = np.std([d.mean for d in distances], ddof=1)
    assert np.mean([d.standard_error for d in distances]) == pytest.approx(varies, rel=0.4)
    assert distances[0] == histogram_distance(*samples[0], "step length"), "repeatable"


def test_the_floor_is_that_of_two_samples_of_one_writer():
    rng = np.random.default_rng(0)
    whole = stroke_statistics([scribble(rng, 20) for _ in range(200)])
    halves = [stroke_statistics([scribble(rng, 20) for _ in range(100)], whole.edges) for _ in range(40)]
    pairs = [
        histogram_distance(a, b, "direction", draws=2).mean for a, b in zip(halves[::2], halves[1::2], strict=True)
    ]
    floor = distance_floor(whole, "direction")
    assert floor.mean == pytest.approx(np.mean(pairs), rel=0.15)
    assert floor.count == 100
    assert math.isnan(distance_floor(stroke_statistics([ONE]), "direction").mean)


def test_the_table_has_real_data_first_and_an_error_with_every_figure(scribbles):
    real = stroke_statistics(scribbles)
    wide = stroke_statistics([s * np.array([2, 1, 1]) for s in scribbles[:50]], real.edges)
    table = markdown_table(real, {"wide": wide})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    head, _, first, second = rows
    assert head == ["system", "sequences", *FIGURES, *(f"distance, {name}" for name in HISTOGRAMS)]
    assert first[:2] == ["real", "60"]
    assert second[:2] == ["wide", "50"]
    assert all(" ± " in cell for row in (first, second) for cell in row[2:])
    column = head.index("width / height")
    assert float(second[column].split()[0]) > 1.7 * float(first[column].split()[0])
    assert second[-3] == "{:.3f} ± {:.3f}".format(*_figures(histogram_distance(wide, real, "step length")))
    assert "two halves of 30 sequences" in table
    with pytest.raises(ValueError, match="the bins of 'step length' differ"):
        markdown_table(real, {"ONE": stroke_statistics([ONE])})


def _figures(statistic):
    return statistic.mean, statistic.standard_error


# -------------------------------------------------------------------------------------- ends, beginnings and the tablet


def pens(*ups, steps):
    pen = np.isin(np.arange(steps), [up - 1 for up in ups])  # up behind so many steps
    return np.column_stack([np.ones((steps, 2)), pen])


@pytest.mark.parametrize(
    ("ups", "length", "expected"),
    [
        ((4, 9, 14), 10, 9),  # the nearest
        ((4, 9, 14), 12, 14),
        ((4, 13), 10, 13),  # the pen-up behind
        ((8, 12), 10, 8),  # as near: the first
        ((4, 16), 10, 10),  # none that is near: cut there
        ((), 10, 10),
        ((15,), 10, 15),
        ((1,), 1, 1),
    ],
)
def test_a_sequence_ends_with_the_nearest_pen_up(ups, length, expected):
    line = pens(*ups, steps=16)
    ended = end_at_pen_up(line, length)
    assert len(ended) == expected
    assert np.array_equal(ended, line[:expected])
    assert len(end_at_pen_up(pens(steps=5), 10)) == 5, "there is no more"


@pytest.mark.parametrize(
    ("ups", "steps", "expected"),
    [((3, 5, 9), 9, 3), ((2, 5, 9), 9, 5), ((6, 9), 9, 6), ((2, 7, 9), 9, 5), ((), 8, 4), ((2,), 2, 1), ((1, 2), 2, 1)],
)
def test_a_beginning_is_at_least_a_third_and_leaves_as_much(ups, steps, expected):
    assert prefix_length(pens(*ups, steps=steps)) == expected


def test_places_are_rounded_and_not_offsets():
    line = np.array([[0.4, 0.0, 0], [0.4, -0.6, 1], [0.4, 0.2, 0]], dtype=np.float32)
    assert to_whole(line).tolist() == [[0, 0, 0], [1, -1, 1], [0, 1, 0]]  # places 0.4, 0.8, 1.2 and 0, -0.6, -0.4
    assert to_whole(line).dtype == np.float32
    assert is_whole([ONE, TWO, to_whole(line)])
    assert is_whole([ONE + np.float32(1e-4) * np.array([1, 1, 0])])
    assert not is_whole([ONE, line])
