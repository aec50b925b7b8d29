"""Options are looked up under their whole name, and are what they should be or refused."""

import pytest

from pyro_stcn.published_options import Options

OPTIONS = Options({"cnn": {"width": 8, "on": True, "dilations": [1, 2], "kind": "tcn", "none": None}, "wrong": 3})


def test_what_is_there():
    cnn = OPTIONS.section("cnn")
    assert (cnn.size("width"), cnn.count("width"), cnn.sizes("dilations")) == (8, 8, (1, 2))
    assert (cnn.flag("on", False), cnn.text("kind"), cnn.get("on", None)) == (True, "tcn", True)
    assert cnn.name("width") == "cnn.width"
    assert OPTIONS.name("cnn") == "cnn"


def test_what_has_a_default():
    cnn = OPTIONS.section("cnn")
    assert cnn.flag("off", False) is False
    assert cnn.get("off", 7) == 7
    assert cnn.size_or("missing", 5) == 5
    assert cnn.size_or("width", 5) == 8
    assert Options({"size": -1}).size_or("size", 5) == 5
    assert OPTIONS.section("missing", optional=True).get("a", 1) == 1
    assert cnn.section("none", optional=True).get("a", 1) == 1


def test_what_is_missing_is_named_with_what_is_there():
    cnn = OPTIONS.section("cnn")
    for look_up in (cnn.size, cnn.count, cnn.sizes, cnn.text, cnn.section):
        with pytest.raises(ValueError, match="no 'cnn.missing' in the configuration; .* width, on, dilations"):
            look_up("missing")
    with pytest.raises(ValueError, match="no 'missing' in the configuration"):
        OPTIONS.section("missing")


@pytest.mark.parametrize("value", [0, -1, 2**16 + 1, 1.0, "8", None, True, [8], {}, float("nan")])
def test_what_is_no_size(value):
    with pytest.raises(ValueError, match=r"^size is .*, expected a whole number from 1 to 65536"):
        Options({"size": value}).size("size")
    with pytest.raises(ValueError, match="size.1. is"):
        Options({"size": [1, value]}).sizes("size")


def test_what_is_no_count_flag_text_list_or_section():
    with pytest.raises(ValueError, match="n is 1001, expected a whole number from 0 to 1000"):
        Options({"n": 1001}).count("n")
    with pytest.raises(ValueError, match="on is 'yes', expected true or false"):
        Options({"on": "yes"}).flag("on", True)
    with pytest.raises(ValueError, match="kind is 3, expected a string"):
        Options({"kind": 3}).text("kind")
    for value in ([], [1] * 1001, 3, "12"):
        with pytest.raises(ValueError, match="list is .*, expected a list of 1 to 1000 whole numbers"):
            Options({"list": value}).sizes("list")
    with pytest.raises(ValueError, match="wrong is 3, expected options by name"):
        OPTIONS.section("wrong")
    with pytest.raises(ValueError, match="cnn.width is 8, expected options by name"):
        OPTIONS.section("cnn").sections()
    with pytest.raises(ValueError, match="the configuration is 3, expected options by name"):
        Options(3)
