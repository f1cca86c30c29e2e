"""Files of features: hostile names, damaged files, other videos of the same name, and two runs in one folder."""

import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.locks import locked_elsewhere
from tests.recipes import tiny
from videomae_fast._text import read_table
from videomae_fast.data import read_mixture
from videomae_fast.interop import save_published
from videomae_fast.models import VideoMAEForClassification
from videomae_fast.recipes.feature_files import FeatureFiles
from videomae_fast.recipes.features import FeaturesConfig, write_features


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def write_model(folder: Path, weight: float | None = None) -> Path:
    made = VideoMAEForClassification(replace(tiny.TINY, num_frames=8, image_size=(32, 32)), 3)
    if weight is not None:
        torch.nn.init.constant_(made.fc_norm.weight, weight)
    save_published(made, folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps({"num_frames": 8, "image_size": 32}))
    return folder / "checkpoint.pth"


def run(data: Path, model: Path, output: Path, **options: Any) -> int:
    given = {"data": str(data), "init": str(model), "output": str(output), "precision": "fp32"}
    return write_features(FeaturesConfig.from_options(**(given | options)), lambda line: None)


def written(output: Path) -> set[str]:
    return {str(path.relative_to(output).with_suffix("")) for path in output.rglob("*.npy") if path.is_file()}


def test_hostile_paths_of_a_list_stay_inside(model: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    names = ["..mp4", "line\nend.mp4", "\x1b[2J.mp4", "=1+1.mp4", " .mp4"]
    for name in names:
        shutil.copy(videos / "video0.mp4", tmp_path / "a" / name)
    lines = [json.dumps(f"../../a/{name}") for name in names] + [f"{videos}/video1.mp4", f"/{videos}/video2.mp4"]
    (tmp_path / "a" / "b" / "list.txt").write_text("\n".join(lines))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    assert run(tmp_path / "a" / "b" / "list.txt", model, tmp_path / "out") == 0
    inside = str(videos).lstrip("/")
    shown = {"..mp4", "line\nend", "\x1b[2J", "=1+1", " "}
    expected = {f"a/{name}" for name in shown} | {f"{inside}/video1", f"{inside}/video2"}
    assert written(tmp_path / "out") == expected
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert run(tmp_path / "a" / "b" / "list.txt", model, tmp_path / "out") == 0  # and all are found again


def test_a_video_that_is_listed_twice_is_of_one_process(
    model: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would write its files at the same time."""
    names = sorted(path.name for path in videos.iterdir())[:2]
    (tmp_path / "list.txt").write_text("".join(f"{videos / name}\n" for name in (names[0], *names, names[1])))
    mixture = read_mixture(str(tmp_path / "list.txt"))
    assert len(mixture) == 4 and FeatureFiles(tmp_path, mixture, {}).numbers == [0, 2]
    wrote: list[int] = []
    write = FeatureFiles.write
    monkeypatch.setattr(
        FeatureFiles, "write", lambda self, number, *given: (wrote.append(number), write(self, number, *given))
    )
    assert run(tmp_path / "list.txt", model, tmp_path / "out") == 0
    assert wrote == [0, 2] and len(written(tmp_path / "out")) == 2


def test_hostile_members_stay_inside(model: Path, videos: Path, tmp_path: Path) -> None:
    video = (videos / "video0.mp4").read_bytes()
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name in ("../../../up.mp4", "//root.mp4", "plain.mp4"):
            member = tarfile.TarInfo(name)
            member.size = len(video)
            shard.addfile(member, io.BytesIO(video))
    assert run(tmp_path / "s.tar", model, tmp_path / "out") == 0
    assert written(tmp_path / "out") == {"s.tar/up", "s.tar/root", "s.tar/plain"}
    assert {path.name for path in tmp_path.iterdir()} == {"s.tar", "out"}


def test_a_name_that_no_file_can_have_is_one_missing_video(model: Path, videos: Path, tmp_path: Path) -> None:
    """A name that is too long with its suffix, a folder where another video has its file, and a link that leads out."""
    data, output, outside = tmp_path / "data", tmp_path / "out", tmp_path / "outside"
    for folder in (data / "a.npy", data / "link", output, outside):
        folder.mkdir(parents=True)
    (output / "link").symlink_to(outside)
    bad = ["x" * 251 + ".mp4", "a.npy/b.mp4", "link/c.mp4"]
    for name in ("a.mp4", "ok.mp4", *bad):
        shutil.copy(videos / "video0.mp4", data / name)
    for _ in range(2):  # a second call finds what the first one wrote
        assert run(data, model, output) == 3
        assert written(output) == {"a", "ok"} and list(outside.iterdir()) == []
        missing = dict(read_table(output / "missing.tsv"))
        assert set(missing) == {str(data / name) for name in bad}
        assert "cannot be the name of its features" in missing[str(data / bad[0])]
        assert "a link leads there" in missing[str(data / bad[2])]


def test_names_of_frame_folders_have_no_suffix(model: Path, tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    for name in ("v.1", "v.2"):
        (tmp_path / name).mkdir()
        for number in range(1, 9):
            images.new("RGB", (32, 32)).save(tmp_path / name / f"img_{number:05}.jpg")
    (tmp_path / "list.txt").write_text("v.1 1 8\nv.2 1 8\n")
    assert run(tmp_path / "list.txt", model, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {"v.1.npy", "v.2.npy"}


def test_a_list_that_claims_many_images_takes_no_memory(model: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "list.txt").write_text(f"frames 1 {10**17}\n{videos}/video0.mp4 0 -1\n")
    assert run(tmp_path / "list.txt", model, tmp_path / "out") == 1


@pytest.fixture
def done(model: Path, videos: Path, tmp_path: Path) -> Path:
    """A folder with the features of two videos."""
    (tmp_path / "data").mkdir()
    for number in range(2):
        shutil.copy(videos / f"video{number}.mp4", tmp_path / "data")
    run(tmp_path / "data", model, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("text", ["{", "", "[]", "3", "{}", '{"settings": 3}', '{"settings": [1]}', "[" * 100000])
def test_damaged_facts_are_named(text: str, done: Path, model: Path, tmp_path: Path) -> None:
    (done / "video1.json").write_text(text)
    with pytest.raises(ValueError, match=r"video1\.json is damaged: delete it, and its video is read again"):
        run(tmp_path / "data", model, done)
    (done / "video1.json").unlink()
    assert run(tmp_path / "data", model, done) == 0 and (done / "video1.json").is_file()


@pytest.mark.parametrize("length", [0, 5, 60, 200, -4])
def test_damaged_values_are_named(length: int, done: Path, model: Path, tmp_path: Path) -> None:
    whole = (done / "video1.npy").read_bytes()
    (done / "video1.npy").write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"video1\.npy is damaged: delete it, and its video is read again"):
        run(tmp_path / "data", model, done)
    (done / "video1.npy").unlink()
    run(tmp_path / "data", model, done)
    assert (done / "video1.npy").read_bytes() == whole


def test_values_of_another_file_are_damaged(done: Path, model: Path, tmp_path: Path) -> None:
    np.save(done / "video1.npy", np.zeros((1, 48), np.float32))
    with pytest.raises(ValueError, match=r"video1\.npy is damaged"):
        run(tmp_path / "data", model, done)


def test_another_video_of_the_same_name_is_not_taken_for_done(
    done: Path, model: Path, videos: Path, tmp_path: Path
) -> None:
    shutil.copy(videos / "video2.mp4", tmp_path / "data" / "video0.mp4")
    with pytest.raises(ValueError, match=r"video0\.npy has the features of another video of this name, of size \d+"):
        run(tmp_path / "data", model, done)
    shutil.copy(videos / "video0.mp4", tmp_path / "data" / "video0.mp4")
    (tmp_path / "list.txt").write_text("data/video0.mp4\ndata/video1.mp4\n")
    run(tmp_path / "list.txt", model, tmp_path / "listed")
    (tmp_path / "data" / "video0.mp4").unlink()  # gone, but its features are there
    assert run(tmp_path / "list.txt", model, tmp_path / "listed") == 0


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_not_written(weight: float, videos: Path, tmp_path: Path) -> None:
    path = write_model(tmp_path, weight)
    with pytest.raises(ValueError, match=r"the features of .*video0\.mp4 are NaN or infinite: the weights are damaged"):
        run(videos, path, tmp_path / "out")
    assert written(tmp_path / "out") == set()


def test_a_second_run_is_kept_out(done: Path, model: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in done.iterdir()}
    message = rf"output folder {re.escape(str(done))} is in use by another run"
    with locked_elsewhere(done), pytest.raises(ValueError, match=message):
        run(tmp_path / "data", model, done, window_stride=1)
    assert {path: path.read_bytes() for path in done.iterdir() if path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
