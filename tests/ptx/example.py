"""A Triton kernel checked on a machine without a GPU: its compiled PTX runs, is compared, counted, and made to fail.

    python tests/ptx/example.py

Needs numpy, Triton and the folder of this file, as the package `ptx` or under any other name; no PyTorch.
"""

import sys
from pathlib import Path

import numpy as np
import triton
import triton.language as tl

sys.path.insert(0, str(Path(__file__).parents[1]))

from ptx import Trap, emulate


class Tensor:
    """What Triton asks of an argument: where it is and what it holds. A torch.Tensor has it all."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype, self.nbytes = array, array.dtype.name, array.nbytes

    def data_ptr(self) -> int:
        return self.array.ctypes.data


@triton.jit
def softmax(x, out, columns, GUARDED: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < columns if GUARDED else column < BLOCK
    at = tl.program_id(0) * columns + column
    value = tl.load(x + at, mask=inside, other=-float("inf"))
    power = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + at, power / tl.sum(power, axis=0), mask=inside)


def main() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 100)).astype(np.float32)
    expected = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    for target in ("sm_80", "sm_90"):
        result = np.zeros_like(rows)
        with emulate(target) as launches:
            softmax[(6,)](Tensor(rows), Tensor(result), 100, GUARDED=True, BLOCK=128)
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        (launch,) = launches
        loads = launch.global_loads
        print(f"{launch.kernel} on {target}: {launch.warp_instructions} warp instructions, {launch.barriers} barriers")
        print(f"  {loads.requests} loads of {loads.bytes} bytes in {loads.sectors} sectors of 32")
    try:
        with emulate("sm_90"):
            softmax[(6,)](Tensor(rows), Tensor(result), 100, GUARDED=False, BLOCK=128)
    except Trap as trap:
        print(f"without its mask: {trap}")


if __name__ == "__main__":
    main()
