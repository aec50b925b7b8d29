"""The handwriting example, run as a user would run it, on a small synthetic corpus."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from matplotlib.image import imread

from pyro_stcn.checkpoint import save_model
from pyro_stcn.data import load_strokes, synthetic_strokes
from pyro_stcn.handwriting import FIGURES, HISTOGRAMS, stroke_statistics
from pyro_stcn.presets import preset

SCRIPT = Path(__file__).parents[1] / "examples" / "handwriting_svi.py"
FILL = SCRIPT.with_name("fill_gaps.py")


def test_handwriting_from_training_to_pictures_and_a_table(tmp_path):
    data, output = synthetic_strokes(tmp_path / "words", words=(12, 4, 6)), tmp_path / "runs"
    options = {"--data": data, "--output": output, "--steps": 2, "--particles": 2, "--lines": 4, "--bias": 0.5}
    command = [sys.executable, SCRIPT, *(part for option in options.items() for part in option)]
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), "--systems", "stcn-dense", "wavenet"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    for name in ("handwriting", "primed", "histograms"):
        ink = imread(output / f"{name}.png")[..., :3].min(-1) < 0.5
        assert 0.0005 < ink.mean() < 0.3, name
    for name, columns in (("handwriting", 3), ("primed", 3)):
        root = ElementTree.parse(output / f"{name}.svg").getroot()
        groups = [element.get("id", "") for element in root.iter() if element.tag.endswith("}g")]
        assert sum(group.startswith("axes_") for group in groups) == columns
    assert (output / "primed.svg").read_text().count("#ff7f0e") >= 4 * 2, "every line was given a beginning"
    assert "#ff7f0e" not in (output / "handwriting.svg").read_text()

    table = (output / "table.md").read_text()
    assert "Synthetic pen strokes, not handwriting" in table
    assert "2 updates, seed 0. Written with bias 0.5, temperature 1, rounded to whole numbers" in table
    assert "* stcn-dense: " in table
    assert "* wavenet: " in table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows] == ["system", "---", "real", "training part", "stcn-dense", "wavenet"]
    assert {row[1] for row in rows[2:]} == {"6"}
    assert {len(row) for row in rows} == {2 + len(FIGURES) + len(HISTOGRAMS)}
    corpus = load_strokes(data)
    real = stroke_statistics([corpus.standardiser.invert(np.asarray(s)) for s in corpus.test.sequences])
    points = rows[0].index("points per stroke")
    assert float(rows[2][points].split()[0]) == np.round(real.figure("points per stroke").mean, 1)
    assert table.splitlines()[-1] in done.stdout


def test_a_hidden_part_of_a_word_is_filled(tmp_path):
    data = synthetic_strokes(tmp_path / "words", words=(12, 4, 6))
    save_model(tmp_path / "model.safetensors", preset("iamondb/stcn-dense-gmm-small").model.build())
    command = [sys.executable, str(FILL), "--data", str(data), "--model", str(tmp_path / "model.safetensors")]
    options = ["--words", "1", "--completions", "2", "--particles", "5", "--output", str(tmp_path / "fill.png")]
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of 5 fillings survive" in done.stdout
    assert imread(tmp_path / "fill.png").std() > 0
    wrong = subprocess.run([*command, "--hidden", "0.5", "0.2"], capture_output=True, text=True, env=environment)
    assert "--hidden takes two fractions in order" in wrong.stderr
