import pytest
import torch

from pyro_stcn.checkpoint import CheckpointError, load_model
from pyro_stcn.cli.errors import friendly
from pyro_stcn.data import DataError
from pyro_stcn.objectives import objective
from pyro_stcn.study import InterruptedRunError
from pyro_stcn.training import NonFiniteError


@pytest.mark.parametrize("error", [DataError, CheckpointError, NonFiniteError, OSError, FileExistsError])
def test_what_a_user_can_mend_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as left, friendly():
        raise error("this and that")
    assert left.value.code == 1
    assert capsys.readouterr().err == "error: this and that\n"


def test_a_value_that_this_library_refuses_is_one_line_and_one_that_torch_does_is_a_bug(capsys):
    with pytest.raises(SystemExit) as left, friendly():
        objective("nothing")
    assert left.value.code == 1
    assert "there is no objective 'nothing'; there are: meanfield, " in capsys.readouterr().err
    with pytest.raises(ValueError, match="Invalid learning rate"), friendly():
        torch.optim.Adam([torch.zeros(1)], lr=-1.0)


def test_interruptions_are_told_apart_from_errors(capsys, tmp_path):
    with pytest.raises(SystemExit) as left, friendly():
        raise InterruptedRunError("Go on with this")
    assert left.value.code == 130
    with pytest.raises(SystemExit) as left, friendly():
        raise KeyboardInterrupt
    assert left.value.code == 130
    with pytest.raises(SystemExit) as left, friendly():
        load_model(tmp_path / "nothing")
    assert left.value.code == 1
    with friendly():
        pass


def test_notes_are_told_and_debug_keeps_the_traceback(capsys):
    error = DataError("this")
    error.add_note("at step 7")
    with pytest.raises(SystemExit), friendly():
        raise error
    assert capsys.readouterr().err == "error: this\nat step 7\n"
    with pytest.raises(DataError), friendly(debug=True):
        raise error
