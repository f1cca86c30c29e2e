"""The counts of blocks in docs/training.md: launches, bytes moved and bytes kept, on fake tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.finetune.predictable import ExpectedDropPath
from benchmarks.roofline.work import Work, totals
from videomae_fast.memory.fake_cuda import fake_cuda
from videomae_fast.models.layers import Block
from videomae_fast.models.norms import add_branch

DOCS = Path(__file__).parents[3] / "docs/training.md"
ROWS = (8, 417)
SIZES = {"1B": (1408, 16, 6144), "6B": (3200, 25, 12800)}  # width, heads, hidden units
SCALED: dict[str, Any] = dict(norm="rmsnorm", qkv_bias=False, qk_norm=True, layer_scale=1e-5)
# Clips, rows, size, rate of stochastic depth and options.
DROPPING: dict[str, tuple[tuple[int, int], str, float, dict[str, Any]]] = {
    "InternVideo2-1B, 8 clips of 417 tokens, `--drop-path 0.25`": (ROWS, "1B", 0.25, SCALED),
    "ViT-g, 6 clips of 2,048 tokens, `--drop-path 0.3`": ((6, 2048), "1B", 0.3, {}),
}


@pytest.fixture
def rms_norm_of_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a CPU PyTorch's RMSNorm is many operations. CUDA's is one forward and two backward, of float32 rows."""
    shapes = {
        "rms(Tensor x, Tensor w) -> (Tensor, Tensor)": lambda x, w: (x.new_empty(x.shape), x.new_empty(x.shape[:-1])),
        "of_rows(Tensor g, Tensor x, Tensor r, Tensor w) -> Tensor": lambda g, x, r, w: x.new_empty(x.shape),
        "of_weight(Tensor g, Tensor x, Tensor r) -> Tensor": lambda g, x, r: x.new_empty(x.shape[-1:]),
    }

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            y, rstd = torch.ops.counted.rms(x, weight)
            ctx.save_for_backward(x, rstd, weight)
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
            x, rstd, weight = ctx.saved_tensors
            return torch.ops.counted.of_rows(grad, x, rstd, weight), torch.ops.counted.of_weight(grad, x, rstd)

    with torch.library._scoped_library("counted", "DEF") as library:
        for schema, shape in shapes.items():
            library.define(schema)
            library.impl(schema.split("(")[0], shape, "CompositeExplicitAutograd")
        monkeypatch.setattr(F, "rms_norm", lambda x, shape, weight, eps: Norm.apply(x.float().contiguous(), weight))
        yield


def counted(blocks: list[Block], width: int, rows: tuple[int, int] = ROWS) -> tuple[float, float, float]:
    """Launches, GB moved and MB kept, of both directions of a chain."""
    chain, kept = nn.ModuleList(blocks), {}
    weights = {p.untyped_storage()._cdata for p in chain.parameters()}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()  # held, so that no other takes its number
        return x

    x, branch = torch.randn(*rows, width, dtype=torch.bfloat16, requires_grad=True), None
    with Work(chain) as work:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
            torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
        ):
            for block in blocks:
                x, branch = block(x, branch)
            out = add_branch(x, branch)
        out.sum().backward()
    sums = totals(work.operations.items())
    bytes_kept = sum(s.nbytes() for number, s in kept.items() if number not in weights)
    return sums["kernel_launches"], sums["gb"], bytes_kept / 1e6


def cell(size: str, elementwise: str, recompute: str) -> str:
    """Of a block in the middle: what three blocks need more than two."""
    return difference(ROWS, size, 0.0, SCALED | dict(elementwise=elementwise, recompute=recompute))


def difference(rows: tuple[int, int], size: str, rate: float, options: dict[str, Any]) -> str:
    width, found = SIZES[size][0], []
    with fake_cuda():
        for count in (2, 3):
            blocks = [Block(*SIZES[size], **options) for _ in range(count)]
            for block in blocks:
                block.drop_path = ExpectedDropPath(rate) if rate else None
            found.append(counted(blocks, width, rows))
    launches, moved, kept = (b - a for a, b in zip(*found, strict=True))
    return f"{launches:.0f}; {moved:.2f} GB; {kept:.0f} MB"


@pytest.mark.parametrize("recompute", ["always", "never"])
@pytest.mark.parametrize("elementwise", [pytest.param("torch", marks=pytest.mark.slow), "triton"])
def test_counts_of_the_documentation(elementwise: str, recompute: str, rms_norm_of_cuda: None) -> None:
    line = f"| `{elementwise}`, `--recompute {recompute}` | " + " | ".join(
        cell(size, elementwise, recompute) for size in SIZES
    )
    assert f"{line} |" in DOCS.read_text(encoding="utf-8").splitlines(), line


@pytest.mark.parametrize("case", DROPPING)
def test_counts_of_stochastic_depth(case: str, rms_norm_of_cuda: None) -> None:
    """Of a branch that the next norm adds, and of PyTorch's operations."""
    rows, size, rate, options = DROPPING[case]
    cells = [difference(rows, size, rate, options | dict(elementwise=name)) for name in ("torch", "triton")]
    line = f"| {case} | {' | '.join(cells)} |"
    assert line in DOCS.read_text(encoding="utf-8").splitlines(), line
