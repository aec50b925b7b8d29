"""The picture of Figure 3: columns, lines, and the same again."""

from xml.etree import ElementTree

from matplotlib.image import imread

from pyro_stcn.presets import preset
from pyro_stcn.reproduction import draw_figure

from .toy import strokes

CORPUS = strokes(test=6)
NETS = {name: preset(f"iamondb/{name}-small").model for name in ("vrnn-gmm", "stcn-dense-gmm")}


def nets():
    import pyro

    pyro.set_rng_seed(0)
    return {name: config.build() for name, config in NETS.items()}


def test_real_lines_and_lines_of_every_model_are_drawn_side_by_side(tmp_path):
    files = draw_figure(nets(), CORPUS, tmp_path / "table.x", lines=4)
    assert [file.name for file in files] == ["table.x.png", "table.x.svg"]
    assert 0.0005 < (imread(files[0])[..., :3].min(-1) < 0.5).mean() < 0.4
    root = ElementTree.parse(files[1]).getroot()
    groups = [element.get("id", "") for element in root.iter() if element.tag.endswith("}g")]
    assert sum(group.startswith("axes_") for group in groups) == 3


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path):
    svg = [draw_figure(nets(), CORPUS, tmp_path / f"{i}", seed=seed)[1].read_text() for i, seed in enumerate((0, 0, 1))]
    assert svg[0] == svg[1] != svg[2]
