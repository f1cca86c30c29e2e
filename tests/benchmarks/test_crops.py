"""Benchmarks of ops on crops: implementations agree, what is wrong is found, and bytes are those that are needed."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.baselines import rewrites
from benchmarks.inputs import Inputs
from benchmarks.ops.clip import Pixels
from benchmarks.ops.pixels import PIXEL_OPS
from benchmarks.ops.workload import CROPS, OURS, REWRITE, Op, OpCase
from videomae_kernels import CroppedClips, tube_mask_gather

CPU = torch.device("cpu")
CASES = [
    (op, OpCase(op.name, direction, "tiny", clip, precision, 6, CPU))
    for op in PIXEL_OPS
    for clip in op.clips
    if clip in CROPS
    for direction in op.directions
    for precision in ("fp32", "bf16")
]
cases = pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{case.op}, {case}" for _, case in CASES])


@cases
def test_implementations_agree(op: Op, case: OpCase) -> None:
    torch.manual_seed(0)
    workload = op.build(case)
    assert 0 < workload.error(OURS, case) < 0.01
    assert 0 < workload.error(REWRITE, case) < 0.01


@pytest.mark.parametrize(("op", "case"), [(op, case) for op, case in CASES if case.precision == "fp32"])
def test_other_pixels_are_found(op: Op, case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
    cropped_clips = Inputs.cropped_clips

    def one_pixel_aside(self: Inputs, resize: str) -> CroppedClips:
        clips = cropped_clips(self, resize)
        clips.first[:] = (clips.first - 1).clamp(min=0)  # boxes one line back, but in the frames
        return clips

    monkeypatch.setattr(Inputs, "cropped_clips", one_pixel_aside)
    with pytest.raises(AssertionError, match=r"not Pillow's integers|exceeds plain PyTorch's"):
        op.build(case).error(OURS, case)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_almost_pillow_is_found(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = OpCase("masked_patch_loss", "forward", "tiny", "crops pillow", precision, 6, CPU)
    index = case.inputs.plan().predicted
    pixels = Pixels(case, targets=True)
    pixels.__dict__["clip"] = case.inputs.cropped_clips("antialias")  # the same, but for rounding
    ours, expected = (tube_mask_gather(x.clip, index, case.inputs.config.patch) for x in (pixels, Pixels(case, True)))
    assert (ours - expected).abs().max() < 1.5 / 255
    with pytest.raises(AssertionError, match=r"^not Pillow's integers"):
        pixels.check_integers(index)
    monkeypatch.setattr(rewrites, "_round", lambda sums: sums / rewrites.FIXED_POINT)
    with pytest.raises(AssertionError, match="the rewrite's are not Pillow's integers"):
        Pixels(case, targets=True).check_integers(index)


@pytest.mark.parametrize("clip", ["crops antialias", "crops bilinear"])
def test_bytes_are_of_pixels_that_matter(clip: str) -> None:
    """Those to which the listed tokens' pixels have a gradient."""
    case = OpCase("tube_mask_gather", "forward", "tiny", clip, "fp32", 6, CPU)
    inputs, index, needed = case.inputs, case.inputs.plan().visible, 0
    for crop, listed in zip(inputs.crops, index, strict=True):
        planes = crop.permute(0, 3, 1, 2).double().requires_grad_()
        whole = F.interpolate(planes, inputs.config.image_size, mode="bilinear", antialias=clip.endswith("antialias"))
        kept = rewrites.gather_pixels(whole.transpose(0, 1)[None], listed[None], inputs.config.patch)
        (gradient,) = torch.autograd.grad(kept.sum(), planes)
        needed += int(gradient.count_nonzero())
    assert Pixels(case, targets=False).bytes(index) == needed + index.nbytes
    assert needed < sum(crop.numel() for crop in inputs.crops)
