"""What GPUs can do: the rates that the roofline divides by, each with its source.

`datasheet` is what the vendor states. `achieved` is an assumption: shares of the datasheet that matrix products,
attention and copies have reached elsewhere. A GPU that is there is measured instead (`measure_rates`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness.measure import copy_bandwidth, median_seconds

# Seconds of host time for a kernel launch, with autograd and PyTorch's dispatcher: assumed, for no particular host.
HOST_SECONDS_PER_LAUNCH = 20e-6

# Assumed share of the datasheet rate. Matrix products: an 8192 x 8192 x 8192 bf16 product of random numbers reaches
# about 0.8 (cuBLAS on H200); the products of a step are smaller. Copies: 0.9 of the bandwidth (a large copy on H200).
MATRIX_SHARE, MEMORY_SHARE = 0.7, 0.9


@dataclass(frozen=True)
class Rates:
    """Rates of a GPU: TFLOP/s of bf16 matrix products, of fused attention, of float32 arithmetic; GB/s of memory."""

    matrix: float
    attention: float
    float32: float
    memory: float


@dataclass(frozen=True)
class Gpu:
    """A GPU's datasheet.

    Attributes:
        bf16: TFLOP/s of the tensor cores, dense.
        float32: TFLOP/s without tensor cores.
        memory: GB/s.
        attention_share: share of `bf16` that FlashAttention-2 reaches, assumed.
        sources: of the datasheet rates, and of `attention_share`.
    """

    name: str
    bf16: float
    float32: float
    memory: float
    attention_share: float
    sources: str

    @property
    def rates(self) -> dict[str, Rates]:
        """The rates by name: "datasheet" and "achieved"."""
        return {
            "datasheet": Rates(self.bf16, self.bf16, self.float32, self.memory),
            "achieved": Rates(
                MATRIX_SHARE * self.bf16,
                self.attention_share * self.bf16,
                MATRIX_SHARE * self.float32,
                MEMORY_SHARE * self.memory,
            ),
        }


# FlashAttention-2 (Dao, 2023) states 50-73 % of an A100's rate; FlashAttention-3 (Shah et al., 2024) states 35 % of an
# H100's for FlashAttention-2, which is what `scaled_dot_product_attention` runs.
GPUS = (
    Gpu("A100", 312.0, 19.5, 2039.0, 0.6, "NVIDIA A100 datasheet, SXM 80 GB; FlashAttention-2 paper"),
    Gpu("H100", 989.4, 67.0, 3350.0, 0.35, "NVIDIA H100 datasheet, SXM 80 GB; FlashAttention-3 paper"),
    Gpu("H200", 989.4, 67.0, 4800.0, 0.35, "NVIDIA H200 datasheet, SXM 141 GB; FlashAttention-3 paper"),
)
DATASHEET, ACHIEVED = "datasheet", "achieved"


def measure_rates(device: torch.device, size: int = 8192) -> Rates:
    """The rates of a GPU: products of random `size` x `size` matrices, attention forward, a large copy."""

    def teraflops(call: Callable[[], Any], flops: float) -> float:
        return flops / median_seconds(call, device) / 1e12

    x, y = (torch.randn(size, size, device=device) for _ in range(2))
    a, b = x.bfloat16(), y.bfloat16()
    heads, length, dim = 12, size // 8, 64
    q, k, v = (torch.randn(size // 128, heads, length, dim, device=device).bfloat16() for _ in range(3))
    return Rates(
        matrix=teraflops(lambda: a @ b, 2 * size**3),
        attention=teraflops(lambda: F.scaled_dot_product_attention(q, k, v), 4 * q.shape[0] * heads * length**2 * dim),
        float32=teraflops(lambda: x @ y, 2 * size**3),
        memory=copy_bandwidth(device),
    )
