import os
from dataclasses import replace

import pytest
import torch

from tests.kernels import truth
from tests.kernels.conftest import Backend
from videomae_fast.memory.fake_cuda import fake_cuda
from videomae_kernels import (
    RESIZES,
    CroppedClips,
    _tiling,
    changed_token_index,
    check_indices,
    crop_clips,
    tube_mask_gather,
)
from videomae_kernels.testing import MEMORY, make_clip

PATCH = (2, 4, 4)
CASES = [
    pytest.param((3, 2, 3), PATCH, 11, id="plain"),
    pytest.param((2, 2, 2), (2, 16, 16), 5, id="patch_16"),
    pytest.param((2, 1, 2), (2, 14, 14), 3, id="patch_14"),
    pytest.param((3, 2, 3), (1, 3, 5), 13, id="odd_one_frame"),
    pytest.param((3, 2, 3), (3, 5, 2), 7, id="odd_three_frames"),
    pytest.param((2, 2, 3), PATCH, 6, id="first_frames_only"),
    pytest.param((2, 2, 3), PATCH, 12, id="all"),
    pytest.param((1, 3, 4), PATCH, 12, id="one_token_frame"),
]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("grid", "patch", "count"), CASES)
def test_selection_by_enumeration(grid, patch, count, dtype, backend: Backend) -> None:
    check_selection(grid, patch, count, dtype, backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clips_of_half_precision(dtype, backend: Backend) -> None:
    check_selection((2, 2, 3), PATCH, 9, dtype, backend)


def check_selection(grid, patch, count: int, dtype: torch.dtype, backend: Backend) -> None:
    clip = make_clip(grid, patch, dtype=dtype, device=backend.device)
    index = changed_token_index(clip, count, patch)
    assert index.dtype == torch.int64 and index.device == clip.device
    assert torch.equal(index.cpu(), truth.changed_tokens(clip.cpu(), count, patch))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_layouts_and_strides(layout, memory, backend: Backend) -> None:
    """The gaps of a sliced clip are out of bounds for the interpreter."""
    clip = make_clip((2, 2, 3), PATCH, layout=layout, memory=memory, device=backend.device)
    index = changed_token_index(clip, 9, PATCH, layout=layout)
    assert torch.equal(index.cpu(), truth.changed_tokens(clip.cpu(), 9, PATCH, layout))


@pytest.mark.parametrize(("channels", "layout"), [(1, "BTHWC"), (5, "WCHBT"), (2, "BTHWC")])
def test_any_number_of_channels(channels, layout, backend: Backend) -> None:
    clip = make_clip((2, 2, 3), PATCH, channels=channels, layout=layout, device=backend.device)
    index = changed_token_index(clip, 9, PATCH, layout=layout)
    assert torch.equal(index.cpu(), truth.changed_tokens(clip.cpu(), 9, PATCH, layout))


def test_a_float64_clip_is_compared_in_float64() -> None:
    """Float32 does not see the change of the last token."""
    clip = torch.ones(1, 1, 3, 1, 3, dtype=torch.float64)
    clip[0, 0, 2, 0, 2] += 1e-12
    assert changed_token_index(clip, 4, (1, 1, 1)).tolist() == [[0, 1, 2, 8]]


def test_the_frames_compared_are_the_outermost_of_both_tokens(backend: Backend) -> None:
    """Frames 0 and 5 of tokens 0 … 2 and 3 … 5: a change of any other frame is not seen."""
    clip = torch.full((6, 1, 6, 1, 2), 7, dtype=torch.uint8, device=backend.device)
    for frame in range(6):
        clip[frame, 0, frame, 0, 1] = 9
    index = changed_token_index(clip, 3, (3, 1, 1))
    assert index.tolist() == [[0, 1, 3 if frame in (0, 5) else 2] for frame in range(6)]


def test_of_equal_scores_the_lower_token_is_kept(backend: Backend) -> None:
    clip = torch.zeros(2, 3, 8, 8, 12, dtype=torch.uint8, device=backend.device)
    assert changed_token_index(clip, 13, PATCH).tolist() == [list(range(13))] * 2
    clip[1, :, 7] = 1  # of the last token frame
    for count in (8, 11):
        index = changed_token_index(clip, count, PATCH).tolist()
        assert index == [list(range(count)), [*range(6), *range(18, 12 + count)]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_scores_add_up_over_channels_and_pixels(dtype, backend: Backend) -> None:
    """The largest sums of a token there are: 48 · 255, in one token; 47 · 255, in another."""
    clip = torch.zeros(1, 3, 4, 4, 12, dtype=dtype, device=backend.device)
    clip[0, :, 3, :, 4:] = 255
    clip[0, 1, 3, 2, 5] = 0
    assert changed_token_index(clip, 4, PATCH).tolist() == [[0, 1, 2, 5]]
    assert changed_token_index(clip, 5, PATCH).tolist() == [[0, 1, 2, 4, 5]]
    assert changed_token_index(clip.flip(2), 4, PATCH).tolist() == [[0, 1, 2, 5]]


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of Triton's interpreter
def test_infinite_and_missing_numbers_count_as_the_largest_change(backend: Backend) -> None:
    clip = torch.zeros(3, 1, 3, 1, 4, device=backend.device)
    clip[:, 0, 1:] = torch.tensor([3e38, 1, 2, 4], device=backend.device)
    clip[0, 0, 1, 0, 1] = torch.inf
    clip[1, 0, 1, 0, 2] = -torch.nan
    clip[2, 0, 1:, 0, 3] = torch.inf  # no change: infinity less infinity
    index = changed_token_index(clip, 6, (1, 1, 1))
    assert torch.equal(index.cpu(), truth.changed_tokens(clip.cpu(), 6, (1, 1, 1)))
    assert index.tolist() == [[0, 1, 2, 3, 5, 9], [0, 1, 2, 3, 6, 10], [0, 1, 2, 3, 7, 11]]


@pytest.mark.parametrize(("grid", "block"), [((5, 3, 3), 8), ((3, 3, 4), 16), ((6, 2, 2), 4)])
def test_tokens_of_several_blocks(grid, block, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_tiling.TILES, "smallest_index", _tiling.Tile(block, num_warps=2))
    clip = make_clip(grid, (2, 1, 1), channels=1, device=backend.device) // 64  # so that many scores are equal
    for count in (grid[1] * grid[2] + 1, grid[0] * grid[1] * grid[2] - 3):
        index = changed_token_index(clip, count, (2, 1, 1))
        assert torch.equal(index.cpu(), truth.changed_tokens(clip.cpu(), count, (2, 1, 1)))


COUNT = 6  # of the 8 tokens of a crop


def crops(resize: str, still: bool = False) -> CroppedClips:
    """Two clips of two sources, one that shrinks and one that grows."""
    sources = [torch.randint(0, 256, (4, height, width, 3), dtype=torch.uint8) for height, width in ((13, 19), (7, 9))]
    if still:
        sources = [source[:1].expand(source.shape).contiguous() for source in sources]
    return crop_clips(sources, [0, 1], [(1, 2, 11, 17), (0, 0, 7, 9)], [False, True], (8, 8), resize)


@pytest.mark.parametrize("resize", RESIZES)
def test_crops_are_compared_as_they_are_resized(resize: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = crops(resize)
    index = changed_token_index(clips.to(backend.device), COUNT, PATCH).cpu()
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    rows = tube_mask_gather(clips, torch.arange(8).expand(2, -1), PATCH).view(2, 2, 2, 2, 3, *PATCH)
    pixels = rows.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(clips.shape) * 255
    assert torch.equal(index, truth.changed_tokens(pixels.round() if resize == "pillow" else pixels, COUNT, PATCH))


@pytest.mark.parametrize("resize", RESIZES)
def test_pixels_that_stand_still_have_equal_scores_after_any_resize(resize: str, backend: Backend) -> None:
    clips = crops(resize, still=True)
    assert changed_token_index(clips.to(backend.device), COUNT, PATCH).tolist() == [list(range(COUNT))] * 2


def test_padded_crops_give_the_same(backend: Backend) -> None:
    clips = crops("bilinear")
    expected = changed_token_index(clips.to(backend.device), COUNT, PATCH)
    assert torch.equal(changed_token_index(clips.padded(10**4, 6).to(backend.device), COUNT, PATCH), expected)


def test_samples_do_not_affect_each_other(backend: Backend) -> None:
    clip = make_clip((3, 3, 4), PATCH, batch=3, device=backend.device)
    index = changed_token_index(clip, 20, PATCH)
    for b in range(3):
        assert torch.equal(changed_token_index(clip[b : b + 1], 20, PATCH)[0], index[b])


def test_frames_that_are_not_compared_are_not_read(backend: Backend) -> None:
    """Of tubelets of four frames, the first and the last alone, and not those of the clip's two ends."""
    clip = make_clip((3, 3, 4), (4, 4, 4), dtype=torch.float32, device=backend.device)
    expected = changed_token_index(clip, 20, (4, 4, 4))
    for frame in (1, 2, 3, 5, 6, 8, 9, 10):
        clip[:, :, frame] = torch.nan
    assert torch.equal(changed_token_index(clip, 20, (4, 4, 4)), expected)


def test_no_gradient_no_clips_and_fake_clips(backend: Backend) -> None:
    clip = make_clip((3, 3, 4), PATCH, dtype=torch.float32, device=backend.device).requires_grad_()
    assert not changed_token_index(clip, 20, PATCH).requires_grad
    assert changed_token_index(clip[:0], 20, PATCH).shape == (0, 20)
    meta = changed_token_index(clip.to("meta"), 20, PATCH)
    assert meta.is_meta and meta.shape == (2, 20) and meta.dtype == torch.int64
    clips = crops("bilinear")
    assert changed_token_index(clips.to("meta"), COUNT, PATCH).shape == (2, COUNT)
    none = replace(clips, geometry=clips.geometry[:0], first=clips.first[:0], weights=clips.weights[:0])
    assert changed_token_index(none.to(backend.device), COUNT, PATCH).shape == (0, COUNT)
    with fake_cuda():
        assert changed_token_index(torch.zeros(2, 3, 6, 12, 16), 20, PATCH).shape == (2, 20)


def test_the_default_dtype_and_autocast_do_not_count(backend: Backend) -> None:
    for clip in (crops("bilinear").to(backend.device), make_clip((2, 2, 2), PATCH, device=backend.device).float()):
        expected = changed_token_index(clip, COUNT, PATCH)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.autocast(backend.device.type, torch.bfloat16):
                found = changed_token_index(clip, COUNT, PATCH)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, expected)


def test_crop_boxes_outside_their_frames(backend: Backend) -> None:
    clips = crops("bilinear")
    geometry = clips.geometry.clone()
    geometry[1, 1] = 10**6
    bad = replace(clips, geometry=geometry).to(backend.device)
    with check_indices(), pytest.raises(ValueError, match=r"clip\.geometry has sources"):
        changed_token_index(bad, COUNT, PATCH)
