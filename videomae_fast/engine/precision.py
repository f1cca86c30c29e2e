"""The number format that a run computes in."""

import torch

PRECISIONS = ("auto", "bf16", "fp32")


def mixed_precision(precision: str) -> str:
    """Accelerate's word for a precision.

    Args:
        precision: "bf16", "fp32", or "auto": bf16 where there is a GPU, fp32 elsewhere.

    Returns:
        "bf16" (autocast: float32 weights, bfloat16 matrix products) or "no" (float32 throughout).

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() else "fp32"
    return "bf16" if precision == "bf16" else "no"
