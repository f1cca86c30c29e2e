"""Each argument of the functions that make crops, and of boxes' features, spoiled in turn: the error names one."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from videomae_fast.models.roi import roi_align
from videomae_kernels import cat_clips, crop_clips, crop_matrix

NAN = float("nan")
PLAIN = [None, "a", 0.5, -1, 2**63, NAN, float("inf")]
SPOILED = [*PLAIN, *([each] for each in PLAIN), [], [[1]], {}, b"x", [NAN] * 4, object(), torch.ones(2).cfloat()]
CROPS: dict[str, Any] = {
    "sources": [torch.zeros(4, 20, 20, 3, dtype=torch.uint8)],
    "source": [0],
    "box": [(0, 0, 16, 16)],
    "flipped": [False],
    "size": (8, 8),
    "resize": "bilinear",
}
BOXES = {"tokens": torch.randn(1, 2, 4, 4, 8), "boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0]]), "clip": torch.tensor([0])}
CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (crop_clips, CROPS),
    (crop_matrix, {"clips": crop_clips(**CROPS)}),
    (cat_clips, {"clips": [crop_clips(**CROPS)] * 2}),
    (roi_align, BOXES | {"output_size": 2, "sampling": 2}),
]


@pytest.mark.parametrize("op, good", CALLS, ids=[op.__name__ for op, _ in CALLS])
def test_a_spoiled_argument_is_named(op: Callable[..., Any], good: dict[str, Any]) -> None:
    op(**good)
    for name in good:
        for spoiled in SPOILED:
            with pytest.raises((TypeError, ValueError)) as error:
                op(**good | {name: spoiled})
            words = set("".join(c if c.isalnum() or c == "_" else " " for c in str(error.value)).split())
            assert words & set(inspect.signature(op).parameters), f"{name}={spoiled!r}: {error.value}"
