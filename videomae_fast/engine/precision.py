"""The number format that a run computes in."""

import torch

PRECISIONS = ("auto", "bf16", "fp32")


def resolve_precision(precision: str) -> str:
    """Resolve "auto" to the precision that suits this machine.

    Args:
        precision: "bf16", "fp32", or "auto": bf16 on a machine with a GPU, fp32 elsewhere.

    Returns:
        "bf16" (autocast: float32 weights, bfloat16 matrix products) or "fp32" (float32 throughout).

    Raises:
        ValueError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    if precision == "auto":
        return "bf16" if torch.cuda.is_available() else "fp32"
    return precision
