"""The `backend` fixture: the same test runs on the references, on interpreted Triton kernels and on a GPU."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    from tests.kernels import emulation, interpreter

    interpreter.install()


@dataclass(frozen=True)
class Backend:
    """Where an op's tensors live and which implementation that makes it run."""

    name: str
    device: torch.device

    @property
    def runs_triton(self) -> bool:
        return self.name != "reference"


@pytest.fixture(
    params=["reference", "interpreter", "ptx-sm_80", "ptx-sm_90", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """reference: CPU tensors, plain torch; interpreter: CPU tensors, Triton; ptx: the kernels' compiled PTX, on CPU
    tensors; cuda: Triton on a GPU.
    """
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")
        yield Backend("cuda", torch.device("cuda"))
        return
    if request.param != "reference":
        if torch.cuda.is_available():
            pytest.skip("with a GPU the kernels run compiled: see the cuda tests")
        pytest.importorskip("triton")
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0" if request.param == "reference" else "1")
    with emulation.emulated(request.param.removeprefix("ptx-")) if request.param.startswith("ptx-") else nullcontext():
        yield Backend(request.param, torch.device("cpu"))


# Of the tests on PTX, those that run by default: all cases of these, and the first case of every other.
EVERY_CASE = {"test_the_kernel_agrees_with_the_reference"}
# Of these the first case takes seconds.
NO_CASE = {
    "test_masks_follow_their_definition",
    "test_of_two_equal_keys_the_lower_position_is_kept",
    "test_loss_is_that_of_the_targets",
    "test_published_counts_with_the_kernel",
    "test_masks_of_several_blocks_follow_their_definition",
    "test_more_rows_than_programs_take_at_once",
    "test_gradients_of_views_and_of_the_scale",
    "test_aligned_pairs_far_from_all_others_cost_nothing",
    "test_siglip_without_a_bias_is_one_with_a_bias_of_0",
    "test_ids_of_no_two_pairs_change_nothing",
    "test_no_scale_overflows",
    "test_no_tensor_grows_with_the_square_of_pairs",
    "test_the_order_of_pairs_does_not_count",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests on PTX as such, and as slow but for a subset."""
    begun = set()
    for item in items:
        name = getattr(item, "originalname", item.name)
        target = getattr(item, "callspec", None) and item.callspec.params.get("backend", "")
        if not str(target).startswith("ptx-"):
            continue
        item.add_marker(pytest.mark.ptx)
        if name in EVERY_CASE:
            continue
        function = (item.parent, name, target)
        if function in begun or name in NO_CASE:
            item.add_marker(pytest.mark.slow)
        begun.add(function)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
