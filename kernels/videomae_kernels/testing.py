"""What tests of these ops and of their users need: inputs, error budgets, awkward gradients, poison.

Needs only torch. Random inputs come from the global generator: seed it with `torch.manual_seed`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

MEMORY = ("contiguous", "channels_last", "sliced", "expanded")


def make_clip(
    grid: Sequence[int],  # (T', H', W') tokens
    patch: Sequence[int],  # (τ, p, p)
    *,
    batch: int = 2,
    channels: int = 3,
    dtype: torch.dtype = torch.uint8,
    layout: str = "BCTHW",
    memory: str = "contiguous",
    device: torch.device | str = "cpu",
) -> Tensor:
    """A clip with dimensions in the order of `layout`: uint8 in 0…255, or floating and normally distributed.

    `memory` is how it lies there: "contiguous"; "channels_last", the channel fastest whatever the layout;
    "sliced", cut from a larger clip in every dimension; "expanded", one sample seen `batch` times (stride 0).
    Raises ValueError for another `memory` or a layout that is no permutation of "BCTHW".
    """
    if memory not in MEMORY:
        raise ValueError(f"memory must be one of {MEMORY}, got '{memory}'")
    if sorted(layout) != sorted("BCTHW"):
        raise ValueError(f"layout must be a permutation of 'BCTHW', got '{layout}'")
    frames, height, width = (tokens * side for tokens, side in zip(grid, patch, strict=True))
    size = {"B": batch, "C": channels, "T": frames, "H": height, "W": width}
    if memory == "expanded":
        size["B"] = 1
    order = "BTHWC" if memory == "channels_last" else layout
    shape = [size[d] + (2 if memory == "sliced" else 0) for d in order]
    if dtype == torch.uint8:
        clip = torch.randint(0, 256, shape, dtype=dtype, device=device)
    else:
        clip = torch.randn(shape, device=device).to(dtype)
    if memory == "sliced":
        clip = clip[(slice(1, -1),) * 5]
    clip = clip.permute([order.index(d) for d in layout])
    return clip.expand([batch if d == "B" else -1 for d in layout])


def make_index(
    batch: int,
    count: int,
    num_tokens: int,
    *,
    dtype: torch.dtype = torch.int64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(batch, count) token numbers below `num_tokens`: unique per sample, ascending, random."""
    if not 0 < count <= num_tokens:
        raise ValueError(f"count must be in [1, {num_tokens}], got {count}")
    chosen = torch.rand(batch, num_tokens, device=device).argsort(dim=1)[:, :count]
    return chosen.sort(dim=1).values.to(dtype)


def assert_within_error_budget(actual: Tensor, plain: Tensor, truth: Tensor, *, ulps: float = 1.0) -> None:
    """Assert that `actual` is at least as exact as plain PyTorch, allowing for `ulps` roundings.

    `plain` is what PyTorch computes in the same dtype and `truth` the same in float64. The largest error of
    `actual` may be the largest error of `plain` plus `ulps` · eps(dtype) · max |truth|. NaN in `actual` or
    `plain` fails; shapes and dtypes must agree.
    """
    if truth.dtype != torch.float64:
        raise TypeError(f"truth must be float64, got {truth.dtype}")
    assert actual.shape == plain.shape == truth.shape, f"shapes {actual.shape}, {plain.shape}, {truth.shape}"
    assert actual.dtype == plain.dtype, f"actual is {actual.dtype}, plain PyTorch gives {plain.dtype}"
    ours, theirs = (float((x.detach().double() - truth.detach()).abs().max()) for x in (actual, plain))
    rounding = ulps * torch.finfo(actual.dtype).eps * float(truth.detach().abs().max())
    assert ours <= theirs + rounding, f"error {ours:.3g} exceeds plain PyTorch's {theirs:.3g} + {rounding:.3g}"


def strided_gradients(output: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Gradients for `output` as autograd really delivers them: (name, gradient) pairs, none contiguous.

    "scalar" is what `output.sum()` sends back (all strides 0), "expanded" what a sum over the first dimension
    does, "sliced" what `cat([output, other], -1)` does, "permuted" one with its dimensions in reverse order.
    """

    def random(shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, device=output.device).to(output.dtype)

    shape = tuple(output.shape)
    yield "scalar", random(()).expand(shape)
    if shape:
        yield "expanded", random(shape[1:]).expand(shape)
        yield "sliced", random((*shape[:-1], 2 * shape[-1] + 1))[..., 1 : shape[-1] + 1]
        yield "permuted", random(shape[::-1]).permute(*reversed(range(len(shape))))


def assert_strided_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Assert that each of `strided_gradients` gives what its contiguous copy gives, for inputs needing one."""
    wanted = [x for x in inputs if x.requires_grad]
    output = function(*inputs)
    for name, gradient in strided_gradients(output):
        strided = torch.autograd.grad(output, wanted, gradient, retain_graph=True)
        contiguous = torch.autograd.grad(output, wanted, gradient.contiguous(), retain_graph=True)
        for i, (ours, expected) in enumerate(zip(strided, contiguous, strict=True)):
            where = f"{name} gradient, input {i}"
            torch.testing.assert_close(ours, expected, msg=partial("{}: {}".format, where))


@contextmanager
def poison_outputs() -> Iterator[None]:
    """While active, a freshly allocated tensor holds NaN (integers: the largest value) until it is written.

    A kernel that leaves a part of its output unwritten then shows it. This is PyTorch's own
    `fill_uninitialized_memory`, which comes with deterministic algorithms.
    """
    settings: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
