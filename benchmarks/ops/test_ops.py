"""Every op of every module here, in every case and implementation: checked, then timed."""

from typing import Any

from benchmarks.ops.align import ALIGN_OPS
from benchmarks.ops.attention import ATTENTION_OPS
from benchmarks.ops.contrast import CONTRAST_OPS
from benchmarks.ops.layers import LAYER_OPS
from benchmarks.ops.masks import MASK_OPS
from benchmarks.ops.pixels import PIXEL_OPS
from benchmarks.ops.tokens import TOKEN_OPS
from benchmarks.ops.workload import Op, OpCase, rows, run
from benchmarks.settings import Settings


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    return rows((*ALIGN_OPS, *ATTENTION_OPS, *CONTRAST_OPS, *LAYER_OPS, *MASK_OPS, *PIXEL_OPS, *TOKEN_OPS), settings)


def test_op(benchmark: Any, settings: Settings, op: Op, case: OpCase, variant: str) -> None:
    run(benchmark, settings, op, case, variant)
