"""Nothing is timed before loss and gradients agree with the published code's."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.harness.run import DisagreementError
from benchmarks.model.steps import ComparedStep, NamedTensors

LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}  # relative
GRADIENT_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative norm of the difference, all parameters together
# The same for the worst parameter. The published code's own gradients differ by 3e-2 between bf16 and fp32 (ViT-S), and
# by more in deeper models; a wrong gradient differs by about 1.
PARAMETER_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-1}


@contextmanager
def without_tf32() -> Iterator[None]:
    """Forbid TF32 in cuDNN's float32 convolutions: steps are timed with it, but it would hide other differences."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield


@dataclass(frozen=True)
class Outcome:
    """Loss and gradients of one step, on the host, gradients by published parameter name."""

    loss: float
    gradients: NamedTensors

    @classmethod
    def of(cls, step: ComparedStep) -> "Outcome":
        """Run forward and backward once."""
        step.forget_gradients()
        with without_tf32():
            loss = step.loss()
            loss.backward()
        found = {name: p.grad.cpu() for name, p in step.model.named_parameters() if p.grad is not None}
        step.forget_gradients()
        return cls(loss.item(), step.implementation.published_names(found))


def check_same_gradients(name: str, found: Outcome, expected: Outcome, precision: str) -> dict[str, float]:
    """Relative differences of loss, gradients and the worst parameter. DisagreementError if they exceed rounding."""
    if found.gradients.keys() != expected.gradients.keys():
        odd = sorted(found.gradients.keys() ^ expected.gradients.keys())
        raise DisagreementError(f"'{name}' and the published code have gradients for different parameters: {odd}")
    off, norm = (
        [float(torch.linalg.vector_norm(x)) for x in tensors]
        for tensors in zip(
            *((found.gradients[key] - gradient, gradient) for key, gradient in expected.gradients.items()), strict=True
        )
    )
    error = {
        "loss": abs(found.loss - expected.loss) / abs(expected.loss),
        "gradient": math.hypot(*off) / math.hypot(*norm),
        "parameter": max(_relative(a, b) for a, b in zip(off, norm, strict=True)),
    }
    limits = {"loss": LOSS_TOLERANCE, "gradient": GRADIENT_TOLERANCE, "parameter": PARAMETER_TOLERANCE}
    if not all(error[what] < limit[precision] for what, limit in limits.items()):  # NaN is no agreement
        raise DisagreementError(f"'{name}' and the published code disagree, so nothing was timed: {error}")
    return error


def _relative(difference: float, norm: float) -> float:
    """0 for two gradients of 0: of a branch that drop path drops for all samples."""
    if norm == 0:
        return math.inf if difference else 0.0
    return difference / norm
