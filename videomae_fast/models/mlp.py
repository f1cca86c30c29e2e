"""The MLP of a block, whose hidden units are padded with zeros to a multiple of 8, which changes no result."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_kernels import bias_gelu

from .linear import Copies, Linear, Source, linear, owns_alone


class Mlp(nn.Module):
    """Linear, GELU (erf), Linear, in two halves: `expand`, and `contract`, which begins with the GELU.

    Args:
        dim: D, inputs and outputs.
        hidden: hidden units.
        elementwise: "triton" adds the bias of the hidden units in the pass of the GELU, any other with the product.
    """

    def __init__(self, dim: int, hidden: int, elementwise: str = "triton") -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.elementwise = elementwise
        # Half-precision GEMMs need rows of 16 bytes to be fast; ViT-g's decoder has 2234 hidden units. Zeros are exact.
        self.padding = -hidden % 8

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, dim) → (B, n, dim)."""
        return self.contract(self.expand(x))

    def expand(self, x: Tensor, copies: Copies | None = None, source: Source | None = None) -> Tensor:
        """(B, n, dim) → (B, n, hidden + padding), without the bias if `contract` adds it."""
        add_bias = not self._adds_bias_later()
        return linear(x, self.fc1, copies=copies, padding=self._padding(), source=source, add_bias=add_bias)

    def contract(
        self, hidden: Tensor, copies: Copies | None = None, keep_gelu: bool = True, mean: bool = False
    ) -> Tensor:
        """The result of `expand` (B, n, hidden + padding) → (B, n, dim). `keep_gelu`: keep the GELU's result, too.

        `mean`: the mean of the rows, (B, 1, dim), taken before the second product, with which it commutes.
        """
        function: Callable[..., Tensor] = F.gelu
        tensors: tuple[Tensor, ...] = (hidden,)
        if self._adds_bias_later():
            bias = F.pad(self.fc1.bias, (0, self._padding())) if self._padding() else self.fc1.bias
            function, tensors = bias_gelu, (hidden, bias)
        y, source = function(*tensors), None if keep_gelu else Source(function, tensors)
        if mean:
            y, source = y.mean(1, keepdim=True), None  # one row is kept: no less than what makes it again
        return linear(y, self.fc2, copies=copies, padding=-self._padding(), source=source)

    def _adds_bias_later(self) -> bool:
        return self.elementwise == "triton" and owns_alone(self.fc1) and not torch.compiler.is_compiling()

    def _padding(self) -> int:
        """Zero units to append; 0 if another class has replaced fc1 or fc2, because it knows only its own sizes."""
        return self.padding if isinstance(self.fc1, Linear) and isinstance(self.fc2, Linear) else 0
