"""Instructions of the resizing kernel, counted as its PTX runs: they follow a clip's own taps, and no warp waits."""

import pytest
import torch

from tests.ptx import Launch
from videomae_kernels import CroppedClips, crop_clips, tube_mask_gather
from videomae_kernels.testing import make_index

emulation = pytest.importorskip("tests.kernels.emulation")
PATCH, SIZE = (2, 16, 16), (64, 64)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are not emulated"),
]


def whole(side: int) -> CroppedClips:
    source = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    return crop_clips([source], [0], [(0, 0, side, side)], [False], SIZE)


def launch(clips: CroppedClips, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with emulation.emulated("sm_90") as launches:
        tube_mask_gather(clips, make_index(1, 4, 16), PATCH)
    (found,) = launches
    return found


def taps(clips: CroppedClips) -> int:
    return int(clips.geometry[0, 3:5].max())


def test_instructions_grow_with_taps_times_source_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with taps squared, which one pass over the taps of both axes would take."""
    small, large = whole(73), whole(206)  # the scales of 256 and 720 lines for clips of 224
    assert (taps(small), taps(large)) == (3, 7)
    counted = [launch(clips, monkeypatch) for clips in (small, large)]
    assert counted[1].warp_instructions / counted[0].warp_instructions < 0.85 * (7 / 3) ** 2
    assert [one.barriers for one in counted] == [0, 0]


def test_a_clip_does_not_pay_for_the_taps_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = whole(73)
    alone, padded = (launch(one, monkeypatch) for one in (clips, clips.padded(clips.frames.numel(), 12)))
    # What is left is the fourth tap of the first group, and a branch for each of the others.
    assert alone.warp_instructions < padded.warp_instructions < 1.25 * alone.warp_instructions
    assert padded.global_loads.bytes == pytest.approx(alone.global_loads.bytes, rel=0.25)
