"""Run Triton kernels without a GPU: their PTX, compiled for a real target, executed in numpy.

    with emulate("sm_90") as launches:
        kernel[(8,)](x, out, BLOCK=128)
    launches[0].warp_instructions

A launch raises `Trap` for accesses out of bounds or misaligned, for barriers, shuffles and votes that a part of a block
or warp reaches, for two warps that meet in shared memory without a barrier, for reads of shared memory that
nobody wrote, where a register that nobody wrote decides something, and for instructions that are not known here.
Needs numpy and Triton. docs/kernels-without-a-gpu.md says what a pass proves.
"""

from .count import Launch, Requests
from .launch import emulate
from .run import run_ptx
from .trap import Trap

__all__ = ["Launch", "Requests", "Trap", "emulate", "run_ptx"]
