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
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1" if request.param == "interpreter" else "0")
    with emulation.emulated(request.param.removeprefix("ptx-")) if request.param.startswith("ptx-") else nullcontext():
        yield Backend(request.param, torch.device("cpu"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
