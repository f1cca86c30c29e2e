"""Clips that exist only as crop boxes: equal to cropping, resizing and mirroring first, with torch and with Pillow."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels import truth
from tests.kernels.conftest import Backend
from videomae_kernels import (
    CroppedClips,
    cat_clips,
    crop_clips,
    crop_matrix,
    embed_tokens,
    masked_patch_loss,
    patch_targets,
    tube_mask_gather,
    warp_clips,
)
from videomae_kernels.pixels.crops import RESIZES
from videomae_kernels.pixels.resize import axis_taps, tap_bucket
from videomae_kernels.testing import assert_within_error_budget, make_index

PATCH, SIZE, FRAMES = (2, 8, 8), (16, 24), 4
TOKENS = 2 * 2 * 3
STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BOXES = {  # source, (top, left, height, width), flipped
    "smaller": (0, (3, 5, 40, 61), False),
    "smaller, flipped": (0, (0, 0, 50, 70), True),
    "much smaller": (2, (1, 0, 60, 75), False),
    "as it is": (0, (7, 9, 16, 24), True),
    "larger": (1, (10, 10, 8, 9), True),
    "larger one way only": (1, (0, 2, 33, 11), False),
    "one pixel": (1, (32, 40, 1, 1), False),
}


def sources() -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (50, 70), (33, 41), (62, 80)
    return [torch.randint(0, 256, (FRAMES, *shape, 3), dtype=torch.uint8) for shape in shapes]


def cropped(resize: str, device: torch.device | str) -> CroppedClips:
    numbers, boxes, flipped = zip(*BOXES.values(), strict=True)
    return crop_clips(sources(), numbers, boxes, flipped, SIZE, resize).to(device)


def resized(resize: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same clips (B, 3, T, H, W) in [0, 1], made by torch or Pillow from the crops."""
    return torch.stack(list(_resize_each(resize, dtype))) / 255


def _resize_each(resize: str, dtype: torch.dtype) -> Iterator[Tensor]:
    frames = sources()
    for number, (top, left, height, width), flipped in BOXES.values():
        crop = frames[number][:, top : top + height, left : left + width]
        if resize == "pillow":
            shown = [np.array(_pillow(PIL.Image.fromarray(frame.numpy()))) for frame in crop]
            planes = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).to(dtype)
        else:
            planes = F.interpolate(
                crop.permute(0, 3, 1, 2).to(dtype), SIZE, mode="bilinear", antialias=resize == "antialias"
            )
        yield (planes.flip(3) if flipped else planes).transpose(0, 1)


def _pillow(image: PIL.Image.Image) -> PIL.Image.Image:
    """Resized in width, then in height: the order of Pillow before 13, which takes the cheaper one."""
    bilinear = PIL.Image.Resampling.BILINEAR
    return image.resize((SIZE[1], image.height), bilinear).resize(SIZE[::-1], bilinear)


@pytest.fixture(params=RESIZES)
def resize(request: pytest.FixtureRequest) -> str:
    return request.param


def indices() -> Tensor:
    return make_index(len(BOXES), 1, TOKENS)


@pytest.mark.parametrize("normalize", [None, STATS])
def test_gather(resize: str, normalize: tuple | None, backend: Backend) -> None:
    index = indices()
    clips = cropped(resize, backend.device)
    ours = tube_mask_gather(clips, index.to(backend.device), PATCH, normalize=normalize)
    plain, expected = (
        truth.normalized(truth.pixels(resized(resize, dtype), index, PATCH), normalize).flatten(2)
        for dtype in (torch.float32, torch.float64)
    )
    assert_within_error_budget(ours.cpu(), plain.float(), expected, ulps=8)


def test_pillow_pixels_are_pillows(backend: Backend) -> None:
    """Not to rounding, but the same integers."""
    index = indices()
    ours = tube_mask_gather(cropped("pillow", backend.device), index.to(backend.device), PATCH) * 255
    expected = truth.pixels(resized("pillow"), index, PATCH).flatten(2) * 255
    assert torch.equal(ours.cpu().round().double(), expected.round())
    assert (ours.cpu() - expected).abs().max() < 1e-3


def test_antialiased_pixels_are_pillows_without_its_roundings(backend: Backend) -> None:
    index = indices()
    ours = tube_mask_gather(cropped("antialias", backend.device), index.to(backend.device), PATCH) * 255
    difference = (ours.cpu() - truth.pixels(resized("pillow"), index, PATCH).flatten(2) * 255).abs()
    assert 0.1 < difference.mean() < 0.4 and difference.max() <= 1.001


@pytest.mark.parametrize("normalize", [True, False])
def test_targets(resize: str, normalize: bool, backend: Backend) -> None:
    index = indices()
    ours = patch_targets(
        cropped(resize, backend.device), index.to(backend.device), PATCH, normalize_target=normalize
    ).cpu()
    pixels = truth.pixels(resized(resize), index, PATCH)
    error = (ours - truth.targets(pixels, normalize)).unflatten(2, (-1, 3)).abs().amax(2)
    # Enlarged boxes make nearly constant tokens, and normalising those magnifies every rounding.
    contrast = pixels.flatten(3).std(3).clamp_min(1e-6) if normalize else torch.ones_like(error)
    assert (error <= 2e-6 / contrast).all()


def test_loss_and_its_gradient(resize: str, backend: Backend) -> None:
    index = indices()
    weight = torch.rand(index.shape)
    pred = torch.randn(*index.shape, 3 * 2 * 8 * 8)
    exact, ours = pred.double().requires_grad_(), pred.to(backend.device).requires_grad_()
    clips = cropped(resize, backend.device)
    loss = masked_patch_loss(
        ours, clips, index.to(backend.device), PATCH, weight=weight.to(backend.device), normalize_target=False
    )
    targets = truth.targets(truth.pixels(resized(resize), index, PATCH), normalize=False)
    expected = ((exact - targets).square().mean(2) * weight).sum() / weight.double().sum()
    loss.backward()
    expected.backward()
    assert ours.grad is not None and exact.grad is not None
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad.cpu().double(), exact.grad, rtol=1e-5, atol=1e-9)


def test_loss_is_that_of_the_targets(backend: Backend) -> None:
    index, clips = indices().to(backend.device), cropped("antialias", backend.device)
    pred = torch.randn(*index.shape, 3 * 2 * 8 * 8, device=backend.device, requires_grad=True)
    loss = masked_patch_loss(pred, clips, index, PATCH)
    (gradient,) = torch.autograd.grad(loss, pred)
    expected = (pred - patch_targets(clips, index, PATCH)).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, pred)[0])


def test_embedding(backend: Backend) -> None:
    index, clips = indices().to(backend.device), cropped("antialias", backend.device)
    weight, bias = torch.randn(5, 3, *PATCH, device=backend.device), torch.randn(5, device=backend.device)
    position = torch.randn(TOKENS, 5, device=backend.device)
    rows = tube_mask_gather(clips, index, PATCH, normalize=STATS)
    expected = rows @ weight.flatten(1).T + bias + position[index]
    ours = embed_tokens(clips, index, weight, bias, position, normalize=STATS)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_only_what_lies_around_the_boxes_is_copied() -> None:
    frames = sources()
    boxes = [(10, 20, 30, 16), (4, 30, 8, 40), (5, 6, 7, 8)]
    clips = crop_clips(frames, [0, 0, 2], boxes, [False, True, False], SIZE)
    around = frames[0][:, 4:40, 20:70], frames[2][:, 5:12, 6:14]
    assert torch.equal(clips.frames, torch.cat([part.flatten() for part in around]))
    taps = [_taps(height, width) for _, _, height, width in boxes]
    assert clips.geometry.tolist() == [
        [0, 36, 50, *taps[0], 6, 0, 30, 16, 0],
        [0, 36, 50, *taps[1], 0, 10, 8, 40, 1],
        [around[0].numel(), 7, 8, *taps[2], 0, 0, 7, 8, 0],
    ]


def _taps(*sides: int) -> list[int]:
    """(down, across) of an antialiased box: the most source lines that lie within a triangle."""
    return [len(axis_taps(side, out, "antialias")[1]) for side, out in zip(sides, SIZE, strict=True)]


def test_no_tensor_is_floating_and_the_ops_get_numbers(resize: str) -> None:
    """Whatever casts the floating inputs of a model leaves a filter as it is."""
    clips = cropped(resize, "cpu")
    assert not any(getattr(clips, name).is_floating_point() for name in ("frames", "geometry", "first", "weights"))
    weights = clips.tensors[3].double() * (2.0**-22 if resize == "pillow" else 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(BOXES), sum(SIZE)).double(), rtol=0, atol=2e-6)


def test_a_clip_costs_its_own_taps_and_few_kernels_serve_all(resize: str) -> None:
    """Weights are padded to a bucket; each clip has its counts beside them."""
    clips = cropped(resize, "cpu")
    used = (clips.weights != 0).flatten(2)
    for clip, (down, across) in enumerate(clips.geometry[:, 3:5].tolist()):
        assert not used[clip, down:, : SIZE[0]].any() and not used[clip, across:, SIZE[0] :].any()
        assert max(down, across) <= clips.weights.shape[1]
    counts = [len(axis_taps(side, 224, resize)[1]) for side in range(1, 2161)]
    buckets = {tap_bucket(count) for count in counts}
    assert set(counts) == ({2} if resize == "bilinear" else {*range(1, 21)})
    assert buckets == ({2} if resize == "bilinear" else {2, 3, 4, 6, 8, 12, 16, 24})
    assert all(count <= tap_bucket(count) <= max(2, count * 3 / 2) for count in counts)


def test_padded_clips_are_the_same_in_tensors_of_fixed_sizes(resize: str, backend: Backend) -> None:
    index, clips = indices().to(backend.device), cropped(resize, backend.device)
    padded = clips.padded(clips.frames.numel() + 1000, 16)
    assert padded.frames.shape == (clips.frames.numel() + 1000,)
    assert padded.weights.shape == (len(BOXES), 16, sum(SIZE))
    assert torch.equal(tube_mask_gather(padded, index, PATCH), tube_mask_gather(clips, index, PATCH))
    with pytest.raises(ValueError, match="num_bytes must be an integer in"):
        clips.padded(clips.frames.numel() - 1, 16)
    with pytest.raises(ValueError, match="taps must be an integer in"):
        clips.padded(clips.frames.numel(), 1)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """(grid, arguments with shapes instead of tensors, constants) of every launch; none runs."""
    seen: list[tuple[object, ...]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def record(*args: object, **constants: object) -> None:
                seen.append((grid, [tuple(a.shape) if isinstance(a, Tensor) else a for a in args], constants))

            return record

    launcher = pytest.importorskip("videomae_kernels.pixels.triton.crops")
    monkeypatch.setattr(launcher, "_cropped_pixels_kernel", Kernel())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return seen


def whole(height: int, width: int) -> CroppedClips:
    """Two clips of whole frames."""
    frames = torch.zeros(FRAMES, height, width, 3, dtype=torch.uint8)
    return crop_clips([frames], [0, 0], [(0, 0, height, width)] * 2, [False, True], SIZE)


def test_padded_batches_launch_alike(launches: list[tuple[object, ...]]) -> None:
    """What a CUDA graph captures of a launch is the same for every batch: constants, scalars, grid and shapes."""
    for height, width in ((20, 30), (62, 80), (41, 33)):
        pred = torch.zeros(2, 1, 3 * 2 * 8 * 8, requires_grad=True)
        masked_patch_loss(pred, whole(height, width).padded(10**5, 12), make_index(2, 1, TOKENS), PATCH).backward()
    assert len(launches) == 6 and launches[0::2] == [launches[0]] * 3 and launches[1::2] == [launches[1]] * 3


def test_a_new_number_of_taps_compiles_no_new_kernel(launches: list[tuple[object, ...]]) -> None:
    """Triton compiles one kernel for each set of constants: 6 for 11 tap counts."""
    counts = set()
    for height in range(8, 90):
        clips = whole(height, 24)
        counts.add(int(clips.geometry[:, 3:5].max()))
        tube_mask_gather(clips, make_index(2, 1, TOKENS), PATCH)
    kernels = {tuple(sorted(constants.items())) for *_, constants in launches}  # type: ignore[attr-defined]
    assert len(kernels) == len({tap_bucket(count) for count in counts}) == 6 < len(counts) == 11


def test_sources_stay_on_their_device() -> None:
    """The meta device stands in for a GPU: a copy to the host would be an error there."""
    frames = [frames.to("meta") for frames in sources()]
    clips = crop_clips(frames, [0, 2], [(3, 5, 40, 61), (1, 0, 60, 75)], [False, True], SIZE)
    assert {tensor.device.type for tensor in clips.tensors} == {"meta"}
    with pytest.raises(ValueError, match="sources must be on one device, got cpu, then meta"):
        crop_clips([sources()[0], frames[1]], [0], [(0, 0, 16, 24)], [False], SIZE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sources_on_a_gpu_are_cut_without_a_sync(resize: str) -> None:
    numbers, boxes, flipped = zip(*BOXES.values(), strict=True)
    frames = [frames.cuda() for frames in sources()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        clips = crop_clips(frames, numbers, boxes, flipped, SIZE, resize)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, expected in zip(clips.tensors, cropped(resize, "cpu").tensors, strict=True):
        assert torch.equal(ours.cpu(), expected)


def test_a_batch_of_batches(resize: str, backend: Backend) -> None:
    """The same rows whether clips are cut together or apart; the parts stay as they were."""
    numbers, boxes, flipped = zip(*BOXES.values(), strict=True)
    clips = zip(numbers, boxes, flipped, strict=True)
    parts = [crop_clips(sources(), [number], [box], [flip], SIZE, resize) for number, box, flip in clips]
    before = [part.geometry.clone() for part in parts]
    index = indices().to(backend.device)
    together = cat_clips(parts).to(backend.device)
    expected = tube_mask_gather(cropped(resize, backend.device), index, PATCH)
    assert torch.equal(tube_mask_gather(together, index, PATCH), expected)
    assert all(torch.equal(part.geometry, old) for part, old in zip(parts, before, strict=True))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_every_nth_frame_is_a_view(step: int, resize: str, backend: Backend) -> None:
    """As of the materialised clip, `clip[:, :, ::step]`."""
    clips = cropped(resize, backend.device)
    view, patch = clips.every(step), (1, 8, 8)
    assert view.frames.data_ptr() == clips.frames.data_ptr() and clips.num_frames == FRAMES
    assert view.shape == (len(BOXES), 3, FRAMES // step, *SIZE)
    index = make_index(len(BOXES), 2, FRAMES // step * 6, device=backend.device)
    expected = tube_mask_gather(clips, index // 6 * (6 * step) + index % 6, patch)
    assert torch.equal(tube_mask_gather(view, index, patch), expected)


def test_every_nth_frame_in_every_op(backend: Backend) -> None:
    """Ops on tokens of two frames, against the same ops on the same pixels as a tensor."""
    clips = cropped("antialias", "cpu")
    pixels = tube_mask_gather(clips, torch.arange(FRAMES * 6).expand(len(BOXES), -1), (1, 8, 8))
    pixels = pixels.view(-1, FRAMES, 2, 3, 3, 8, 8).permute(0, 4, 1, 2, 5, 3, 6).reshape(clips.shape)
    half = pixels[:, :, ::2].contiguous()
    view, index = clips.every(2).to(backend.device), make_index(len(BOXES), 2, 6, device=backend.device)
    weight, bias, position = torch.randn(5, 3, *PATCH), torch.randn(5), torch.randn(6, 5)
    on_device = [x.to(backend.device) for x in (weight, bias, position)]
    embedded = embed_tokens(view, index, *on_device)
    torch.testing.assert_close(embedded.cpu(), embed_tokens(half, index.cpu(), weight, bias, position))
    pred = torch.randn(len(BOXES), 2, 3 * 2 * 8 * 8)
    loss = masked_patch_loss(pred.to(backend.device), view, index, PATCH)
    torch.testing.assert_close(loss.cpu(), masked_patch_loss(pred, half, index.cpu(), PATCH))


def test_views_of_every_nth_frame_are_joined_cut_and_padded() -> None:
    index, patch = make_index(len(BOXES), 2, FRAMES // 2 * 6), (1, 8, 8)
    clips = cropped("antialias", "cpu")
    expected = tube_mask_gather(clips.every(2), index, patch)
    both = cat_clips([clips.every(2), clips.every(2)])
    assert torch.equal(tube_mask_gather(both, index.repeat(2, 1), patch), expected.repeat(2, 1, 1))
    assert torch.equal(
        tube_mask_gather(cat_clips([clips, clips]).every(2), index.repeat(2, 1), patch), expected.repeat(2, 1, 1)
    )
    padded = clips.every(2).padded(clips.frames.numel() + 99, 2 * clips.weights.shape[1])
    assert torch.equal(tube_mask_gather(padded, index, patch), expected)
    last = make_index(len(BOXES), 2, 6)
    assert torch.equal(
        tube_mask_gather(clips.every(2).every(2), last, patch), tube_mask_gather(clips.every(4), last, patch)
    )
    with pytest.raises(ValueError, match="step must divide the 4 frames of the clips, got 3"):
        clips.every(3)
    with pytest.raises(ValueError, match=r"step must be an integer in \[1, 4\], got 8"):
        clips.every(8)
    with pytest.raises(ValueError, match="clips must be alike, .* of step 2 .* of step 4"):
        cat_clips([clips.every(2), replace(clips.every(4), num_frames=2)])
    with pytest.raises(ValueError, match="clips must have a step of 1, got 2"):
        warp_clips(clips.every(2), crop_matrix(clips))


def test_errors() -> None:
    frames = sources()
    box, size = (0, 0, 16, 24), SIZE
    with pytest.raises(ValueError, match=r"box \(40, 0, 16, 24\) does not lie in frames of 50 x 70"):
        crop_clips(frames, [0], [(40, 0, 16, 24)], [False], size)
    for wrong in ([frames[0], frames[1][:2]], [frames[0][0]], [frames[0].float()]):
        error = TypeError if wrong[-1].is_floating_point() else ValueError
        with pytest.raises(error, match=rf"sources must .*, got .*\({', '.join(map(str, wrong[-1].shape))}\)"):
            crop_clips(wrong, [0], [box], [False], size)
    with pytest.raises(ValueError, match="sources must not be empty"):
        crop_clips([], [], [], [], size)
    with pytest.raises(ValueError, match="source, box and flipped must have one entry for each clip, got 1, 2 and 1"):
        crop_clips(frames, [0], [box, box], [False], size)
    for number in (3, -1):
        with pytest.raises(ValueError, match=rf"source must be an integer in \[0, 2\], got {number}"):
            crop_clips(frames, [number], [box], [False], size)
    with pytest.raises(ValueError, match="resize must be one of"):
        crop_clips(frames, [0], [box], [False], size, "bicubic")
    clips = crop_clips(frames, [0], [box], [False], size)
    other = crop_clips(frames, [0], [box], [False], (24, 16))
    with pytest.raises(ValueError, match=r"clips must be alike, got .*\(3, 4, 16, 24\).*, then \(3, 4, 24, 16\)"):
        cat_clips([clips, other])
    tensors = clips.frames, clips.geometry, clips.first, clips.weights
    for number, wrong in (
        (0, clips.frames.float()),
        (0, clips.frames[None]),
        (1, clips.geometry[:, :2]),
        (2, clips.first[:, 1:]),
        (2, clips.first.long()),
        (3, clips.weights[0]),
        (3, clips.weights.view(torch.float32)),
    ):
        name = ("frames", "geometry", "first", "weights")[number]
        same_dtype = wrong.dtype == tensors[number].dtype
        words = r"must have shape \(.*, got \(" if same_dtype else f"must be .*, got a {wrong.dtype} tensor"
        with pytest.raises(ValueError if same_dtype else TypeError, match=f"{name} {words}"):
            CroppedClips(*tensors[:number], wrong, *tensors[number + 1 :], FRAMES, size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"clip has W=24, which patch \(2, 8, 7\) does not divide"):
        tube_mask_gather(clips, torch.zeros(1, 1, dtype=torch.int64), (2, 8, 7))
    with pytest.raises(ValueError, match=r"index must have shape \(1, K\)"):
        tube_mask_gather(clips, torch.zeros(2, 1, dtype=torch.int64), PATCH)
    with pytest.raises(ValueError, match="denormalize undoes a normalisation"):
        patch_targets(clips, torch.zeros(1, 1, dtype=torch.int64), PATCH, denormalize=STATS)


@pytest.mark.parametrize("some", [slice(1, 3), slice(4, None), slice(0, None, 2)])
def test_some_of_the_clips(some: slice) -> None:
    """As a slice of a tensor of clips; the frames are shared."""
    clips = cropped("antialias", "cpu")
    index = torch.arange(TOKENS).expand(len(BOXES), -1)
    part = clips[some]
    assert part.frames.data_ptr() == clips.frames.data_ptr()
    expected = tube_mask_gather(clips, index, PATCH)[some]
    assert torch.equal(tube_mask_gather(part, index[some], PATCH), expected)
