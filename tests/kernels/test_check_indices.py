"""Index values are looked at only inside `check_indices()`, because looking makes the host wait."""

import pytest
import torch

import videomae_kernels as vk
from tests.kernels.cases import TOKENS
from tests.kernels.test_errors import INDEX_OPS, good


@pytest.mark.parametrize(("op", "argument"), INDEX_OPS.items())
@pytest.mark.parametrize(
    ("value", "words"), [(-1, "must lie in"), (TOKENS, "must lie in"), (None, "must not repeat")], ids=str
)
def test_check_indices_find_bad_index_values(op, argument, value, words):
    function, arguments = good(op)
    with vk.check_indices():
        function(**arguments)
    bad = arguments[argument].clone()
    bad[1, 1] = bad[1, 2] if value is None else value
    arguments[argument] = bad
    with vk.check_indices(), pytest.raises(ValueError, match=f"{argument} {words}"):
        function(**arguments)


def test_check_indices_find_a_bad_phase():
    function, arguments = good("running_cell_select")
    with vk.check_indices(), pytest.raises(ValueError, match="phase must lie in"):
        function(**{**arguments, "phase": torch.tensor([0, 4])})


def test_equal_phases_are_fine_under_check_indices():
    function, arguments = good("running_cell_select")
    with vk.check_indices():
        function(**{**arguments, "phase": torch.tensor([1, 1])})


def test_check_indices_end_with_the_context():
    from videomae_kernels import _checks

    with pytest.raises(KeyError), vk.check_indices():
        raise KeyError
    assert not _checks._checks_values
