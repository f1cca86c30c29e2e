import os
import pickle
import subprocess
import sys
import time
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from videomae_fast.data import (
    Annotations,
    ClipBatch,
    ClipDataset,
    Mixture,
    UnreadableVideosError,
    VideoFile,
    VideoSource,
    collate,
    make_loader,
    open_video,
    read_annotations,
)
from videomae_fast.data.loader import StepSampler

PATHS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in ("", "kernels"))
OPTIONS = {"num_frames": 2, "frame_stride": 2, "size": (16, 16), "crops_per_video": 2, "seed": 3}


@pytest.fixture(scope="module")
def dataset(clips: Path, bad_clips: Path) -> ClipDataset:
    """Eight good videos and four bad ones."""
    entries = [VideoFile(entry.path) for folder in (clips, bad_clips) for entry in read_annotations(folder)]
    return ClipDataset(Annotations(entries), **OPTIONS)  # type: ignore[arg-type]


def videos(count: int) -> Mixture:
    return Mixture([VideoSource(Annotations([VideoFile(f"{i}.mp4") for i in range(count)]))])


def test_sampler_shuffles_each_epoch_without_repeats() -> None:
    sampler = StepSampler(videos(11), 2, seed=0, num_steps=15)
    steps = list(sampler)
    assert sampler.steps_per_epoch == 5 and len(sampler) == len(steps) == 15
    orders = []
    for epoch in range(3):
        pairs = [pair for step in steps[5 * epoch : 5 * epoch + 5] for pair in step]
        indices = [index for index, _ in pairs]
        assert len(set(indices)) == 10 and set(indices) <= set(range(11))
        assert [number for _, number in pairs] == [11 * epoch + position for position in range(10)]
        orders.append(indices)
    assert orders[0] != orders[1] != orders[2] and orders[0] != list(range(10))


def test_sampler_depends_on_the_seed_only() -> None:
    first, same, other = (list(StepSampler(videos(50), 4, seed, num_steps=12)) for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(("batch_size", "world_size"), [(12, 1), (6, 2), (4, 3), (1, 12)])
def test_global_batch_is_the_same_for_every_split(batch_size: int, world_size: int) -> None:
    whole = list(StepSampler(videos(50), 12, seed=5, num_steps=9))
    ranks = [list(StepSampler(videos(50), batch_size, 5, rank, world_size, num_steps=9)) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize("start", [0, 1, 4, 5, 13])
def test_sampler_resumes_exactly(start: int) -> None:
    whole = list(StepSampler(videos(17), 3, 1, rank=0, world_size=1, num_steps=20))
    assert list(StepSampler(videos(17), 3, 1, start_step=start, num_steps=20 - start)) == whole[start:]


def test_the_first_sample_of_a_step_is_known_without_the_order() -> None:
    sampler = StepSampler(videos(17), 3, seed=1, rank=1, world_size=2, start_step=4, num_steps=7)
    assert [batch[0][1] for batch in sampler] == [sampler.first_sample(step) for step in range(4, 11)]


def test_sampler_without_end() -> None:
    sampler = StepSampler(videos(4), 2, seed=0)
    assert list(islice(sampler, 7)) == list(StepSampler(videos(4), 2, seed=0, num_steps=7))
    with pytest.raises(TypeError, match="without num_steps has no length"):
        len(sampler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 4, 0, 0, 3), "dataset of 10 videos does not fill one step of batch_size 4 x world_size 3 = 12"),
        ((10, 0, 0), "batch_size and world_size must be at least 1"),
        ((10, 1, 0, 0, 0), "batch_size and world_size must be at least 1"),
        ((10, 1, 0, 2, 2), r"rank must be in \[0, 2\), got 2"),
        ((10, 1, 0, 0, 1, -1), "start_step and num_steps must not be negative"),
        ((10, 1, 0, 0, 1, 0, -1), "start_step and num_steps must not be negative"),
    ],
)
def test_sampler_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepSampler(videos(arguments[0]), *arguments[1:])


def batches(dataset: ClipDataset, **options: int) -> list[ClipBatch]:
    return list(make_loader(dataset, **{"batch_size": 3, "num_steps": 4, **options}))  # type: ignore[arg-type]


def assert_equal(ours: list[ClipBatch], theirs: list[ClipBatch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.clips.frames, b.clips.frames) and torch.equal(a.clips.geometry, b.clips.geometry)
        assert torch.equal(a.sample, b.sample) and a.bad_videos == b.bad_videos


def test_batches_are_the_same_for_any_number_of_workers(dataset: ClipDataset, clips: Path) -> None:
    """The decoder is used in this process first: workers forked after that must not hang or differ."""
    open_video(clips / "h264.mp4").frames([3])
    expected = batches(dataset)
    assert expected[0].clips.shape == (6, 3, 2, 16, 16)
    assert any(batch.bad_videos for batch in expected)  # replacement is part of what must not differ
    for workers in (1, 2):
        assert_equal(batches(dataset, workers=workers), expected)


def test_batches_are_the_same_for_any_number_of_ranks(dataset: ClipDataset) -> None:
    whole = batches(dataset, batch_size=4, num_steps=3)
    ranks = [batches(dataset, batch_size=2, num_steps=3, rank=rank, world_size=2) for rank in range(2)]
    for together, *parts in zip(whole, *ranks, strict=True):
        assert_equal([together], [collate(parts)])


def test_loader_resumes_exactly(dataset: ClipDataset) -> None:
    assert_equal(batches(dataset, start_step=3, num_steps=2, workers=1), batches(dataset, num_steps=5)[3:])


def test_errors_in_workers_keep_their_type_and_text(bad_clips: Path) -> None:
    bad = ClipDataset(read_annotations(bad_clips), **OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(UnreadableVideosError, match=r"4 videos in a row could not be read:(.|\n)*empty.mp4"):
        batches(bad, batch_size=1, workers=1)


FAIL_AND_KEEP_THE_ERROR = """
import sys
from pathlib import Path
from videomae_fast.data import ClipDataset, make_loader, read_annotations

bad = ClipDataset(read_annotations(sys.argv[1]), num_frames=2, frame_stride=2, size=(16, 16), crops_per_video=2, seed=3)
try:
    list(make_loader(bad, 1, workers=1, num_steps=4))
except Exception as error:
    kept = error  # its traceback keeps the iterator, and so the worker, alive
print("end", flush=True)
"""


def test_a_process_ends_although_an_error_keeps_its_worker(bad_clips: Path) -> None:
    """multiprocessing waits at exit for workers that it has sent SIGTERM: they must heed it."""
    command = [sys.executable, "-c", FAIL_AND_KEEP_THE_ERROR, str(bad_clips)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": PATHS})
    assert done.stdout == "end\n" and done.returncode == 0, done.stderr


class Stuck(ClipDataset):
    def __getitem__(self, key: tuple[int, int]) -> None:  # type: ignore[override]
        time.sleep(3)


def test_a_stuck_worker_ends_the_loop(clips: Path) -> None:
    loader = make_loader(Stuck(read_annotations(clips), **OPTIONS), 1, workers=1, timeout=1)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="timed out after 1"):
        next(iter(loader))


def test_dataset_can_be_pickled(dataset: ClipDataset) -> None:
    """What the dataset holds can be pickled, as workers that are not forked need it."""

    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[(0, 1)].clips.frames, dataset[(0, 1)].clips.frames)


def test_importing_the_package_loads_no_optional_package() -> None:
    code = "import sys, videomae_fast.data; print(*{'decord', 'PIL', 'av', 'torchcodec', 'skvideo'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ""
