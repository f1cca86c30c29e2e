import pytest
import torch
from torch import Tensor
from torch.nn import functional

from videomae_fast.data.augment import normalize, normalized_clips
from videomae_kernels import crop_clips

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (pixels.double() / 255 - mean) / std


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_normalised_channel_by_channel(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (2, 3, 2, 5, 7), dtype=torch.uint8)
    expected = reference(pixels).to(dtype)
    for given in (pixels, pixels.float()):
        done = normalize(given, MEAN, STD, dtype)
        assert done.dtype == dtype
        torch.testing.assert_close(done, expected)


@pytest.mark.parametrize("size", [(32, 48), (15, 21), (7, 16)])
@pytest.mark.parametrize("resize", ["bilinear", "antialias"])
def test_crops_are_resized_as_they_say(frames: Tensor, size: tuple[int, int], resize: str) -> None:
    boxes, flips = [(3, 5, 40, 61), (0, 0, 61, 83)], [True, False]
    clips = crop_clips([frames], [0, 0], boxes, flips, size, resize)
    done = normalized_clips(clips, MEAN, STD)
    for clip, (top, left, height, width), flip in zip(done, boxes, flips, strict=True):
        box = frames[:, top : top + height, left : left + width].permute(3, 0, 1, 2).double()
        expected = functional.interpolate(box, size, mode="bilinear", antialias=resize == "antialias")
        expected = reference(expected.flip(3) if flip else expected).float()
        torch.testing.assert_close(clip, expected, rtol=1e-4, atol=1e-4)
    assert done.is_contiguous() and normalized_clips(clips, MEAN, STD, torch.bfloat16).dtype == torch.bfloat16
