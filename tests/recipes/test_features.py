"""Features of sliding windows: their values, files, continuation, and what goes wrong."""

import errno
import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes import tiny
from videomae_fast.data import open_video
from videomae_fast.data.crops import CropBox, crop_resize
from videomae_fast.interop import read_feature_model, save_published
from videomae_fast.models import VideoMAEForClassification, VideoMAEForPretraining
from videomae_fast.recipes import features
from videomae_fast.recipes.features import FeaturesConfig, extract, write_features

CLIP: dict[str, Any] = {"num_frames": 8, "image_size": (32, 32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of weights of both kinds, beside a config.json that tells their clip."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    config = replace(tiny.TINY, **CLIP)
    made = {"pretraining": VideoMAEForPretraining(config), "classifier": VideoMAEForClassification(config, 3)}
    files = {}
    for kind, model in made.items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        (folder / kind).mkdir()
        save_published(model, folder / kind / "checkpoint.pth")
        (folder / kind / "config.json").write_text(json.dumps({"num_frames": 8, "image_size": 32}))
        files[kind] = folder / kind / "checkpoint.pth"
    return files


def config(data: Path, model: Path, output: Path, **options: Any) -> FeaturesConfig:
    given = {"data": str(data), "init": str(model), "output": str(output), "precision": "fp32"}
    return FeaturesConfig.from_options(**(given | options))


def windows_of(path: Path, starts: list[int]) -> torch.Tensor:
    """uint8 (n, 3, 8, 32, 32), cut plainly."""
    with closing(open_video(path)) as video:
        frames = torch.from_numpy(video.frames(np.arange(video.num_frames)))
    height, width = frames.shape[1:3]
    square = crop_resize(frames, CropBox(0, (width - height) // 2, height, height), (32, 32))
    shown = [[min(start + k, len(frames) - 1) for k in range(8)] for start in starts]
    return square[torch.tensor(shown)].permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_values_are_the_models_on_windows_cut_plainly(kind: str, models: dict[str, Path], videos: Path) -> None:
    model, path = read_feature_model(models[kind]), videos / "video0.mp4"
    found = extract(model, path, window_stride=3, batch_size=2)
    assert found.starts.tolist() == [0, 3, 4] and found.num_frames == 12 and found.fps == 25
    with torch.no_grad():
        clip = windows_of(path, [0, 3, 4])
        expected = model.features(clip)
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-4)
        tokens = model.tokens(clip).unflatten(1, (4, 2, 2))
        dense = extract(model, path, window_stride=3, kind="tokens").values
        np.testing.assert_allclose(dense, tokens, rtol=1e-4, atol=1e-4)
        tubelets = extract(model, path, window_stride=3, kind="tubelets").values
        np.testing.assert_allclose(tubelets, tokens.mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_pretraining_features_are_the_mean_of_the_encoders_tokens(models: dict[str, Path]) -> None:
    whole = VideoMAEForPretraining(replace(tiny.TINY, **CLIP)).eval()
    whole.load_state_dict(torch.load(models["pretraining"])["model"])
    clip = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    model = read_feature_model(models["pretraining"])
    with torch.no_grad():
        expected = whole.encoder(clip, torch.arange(16).expand(2, -1))
        torch.testing.assert_close(model.tokens(clip), expected)
        torch.testing.assert_close(model.features(clip), expected.mean(1))


def test_any_clip_size(models: dict[str, Path], videos: Path) -> None:
    """Positions of another grid are interpolated from those of the weights."""
    model = read_feature_model(models["pretraining"], num_frames=4, image_size=(48, 64))
    assert extract(model, videos / "video0.mp4", kind="tokens").values.shape == (3, 2, 3, 4, 48)
    assert not torch.equal(model.position[:12], read_feature_model(models["pretraining"]).position[:12])


def test_files_are_what_detectors_read(models: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    assert write_features(config(videos, models["classifier"], tmp_path / "out", window_stride=2)) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock"} | {f"video{n}.{suffix}" for n in range(8) for suffix in ("npy", "json")}
    values = np.load(tmp_path / "out" / "video3.npy")
    assert values.dtype == np.float32 and values.shape == (3, 48)
    facts = json.loads((tmp_path / "out" / "video3.json").read_text())
    assert (facts["fps"], facts["frames"], facts["shape"], facts["starts"]) == (25, 12, [3, 48], [0, 2, 4])
    assert (facts["feature_stride"], facts["window_frames"], facts["offset_frames"]) == (2, 8, 4)
    assert facts["settings"]["weights"] == "checkpoint.pth"


def test_a_stopped_run_continues_and_writes_nothing_twice(
    models: dict[str, Path], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after the third video: nothing half written stays, and the same call goes on."""
    written: list[Path] = []
    save = np.save

    def full_disk(file: Any, values: np.ndarray) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(Path(file.name))
        save(file, values)

    monkeypatch.setattr(features.np, "save", full_disk)
    settings = config(videos, models["classifier"], tmp_path)
    with pytest.raises(OSError, match=r"No space left on device: .*video3\.npy"):
        write_features(settings)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [f"video{n}.npy" for n in range(3)]
    monkeypatch.setattr(features.np, "save", save)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    write_features(settings)
    assert len(list(tmp_path.glob("*.npy"))) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_other_settings_are_refused(models: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    write_features(config(videos, models["classifier"], tmp_path))
    with pytest.raises(ValueError, match=r"made with other settings \(window_stride\): choose another output folder"):
        write_features(config(videos, models["classifier"], tmp_path, window_stride=1))
    with pytest.raises(ValueError, match=r"other settings \(model, weights_crc32\)"):
        write_features(config(videos, models["pretraining"], tmp_path))


def test_unreadable_videos_are_listed_and_the_others_written(models: dict[str, Path], tmp_path: Path) -> None:
    data = tiny.write_videos(tmp_path / "videos", 2)
    (data / "bad.mp4").write_bytes(b"no video")
    said: list[str] = []
    assert write_features(config(data, models["classifier"], tmp_path / "out"), said.append) == 1
    assert said[0].startswith("unreadable video left out: ") and "bad.mp4" in said[0]
    assert "bad.mp4" in (tmp_path / "out" / "missing.tsv").read_text()
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == ["video0.npy", "video1.npy"]


def test_no_readable_video_is_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"data: none of the 1 videos can be read, see .*missing\.tsv"):
        write_features(config(tmp_path / "videos", models["classifier"], tmp_path / "out"))
    assert "bad.mp4" in (tmp_path / "out" / "missing.tsv").read_text()


def test_a_short_video_has_a_window_unless_the_tail_is_dropped(models: dict[str, Path], tmp_path: Path) -> None:
    data = tiny.write_videos(tmp_path / "videos", 1)
    long = {"num_frames": 16}
    write_features(config(data, models["classifier"], tmp_path / "kept", **long))
    assert np.load(tmp_path / "kept" / "video0.npy").shape == (1, 48)
    write_features(config(data, models["classifier"], tmp_path / "dropped", keep_tail=False, **long))
    assert np.load(tmp_path / "dropped" / "video0.npy").shape == (0, 48)


def test_two_videos_of_one_name_are_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    data = tiny.write_videos(tmp_path / "videos", 1)
    (data / "video0.mkv").write_bytes((data / "video0.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"the features of .*video0\.mkv and .*video0\.mp4 would have one file"):
        write_features(config(data, models["classifier"], tmp_path / "out"))


def test_two_parts_of_one_folder_of_frames_are_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    (tmp_path / "frames").mkdir()
    for number in range(1, 33):
        images.new("RGB", (32, 32)).save(tmp_path / "frames" / f"img_{number:05}.jpg")
    (tmp_path / "list.txt").write_text("frames 1 16\nframes 17 16\n")
    with pytest.raises(ValueError, match=r"frames from image 1 on and .*frames from image 17 on would have one file"):
        write_features(config(tmp_path / "list.txt", models["classifier"], tmp_path / "out"))


def test_a_mixture_has_no_frame_strides_of_its_own(models: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_text(json.dumps([{"data": str(videos), "frame_stride": 2}]))
    with pytest.raises(ValueError, match="features have one --frame-stride for all videos"):
        write_features(config(tmp_path / "mixture.json", models["classifier"], tmp_path / "out"))


def test_names_with_dots_and_folders_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    data = tiny.write_videos(tmp_path / "videos" / "class one", 1).parent
    (data / "class one" / "video0.mp4").rename(data / "class one" / "v.1.2.mp4")
    write_features(config(data, models["classifier"], tmp_path / "out"))
    assert (tmp_path / "out" / "class one" / "v.1.2.npy").is_file()
    assert (tmp_path / "out" / "class one" / "v.1.2.json").is_file()


@pytest.mark.parametrize("name", ["data", "init", "output"])
def test_options_that_must_be_given(name: str, models: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name} is empty$"):
        write_features(config(videos, models["classifier"], tmp_path).with_options(**{name: ""}))


def test_bad_arguments(models: dict[str, Path], videos: Path) -> None:
    model = read_feature_model(models["classifier"])
    with pytest.raises(ValueError, match=r"kind must be one of .*, got 'max'"):
        extract(model, videos / "video0.mp4", kind="max")
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        extract(model, videos / "video0.mp4", window_stride=0)
    with pytest.raises(FileNotFoundError):
        read_feature_model("no/such/file")
