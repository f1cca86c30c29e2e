"""The views of videos, divided among processes, and the figures of an evaluation during training."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.recipes import tiny
from videomae_fast.data import number_classes, read_mixture
from videomae_fast.data.augment.normalize import normalized_clips
from videomae_fast.data.views import ViewDataset
from videomae_fast.recipes.scores import label_places
from videomae_fast.recipes.views import EvaluationViews, ViewLogits, view_logits
from videomae_kernels import CroppedClips


class Brightness(nn.Module):
    """Logits that tell clips apart, and a count of its calls."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 1, classes))
        self.calls = 0

    def forward(self, clips: CroppedClips | Tensor) -> Tensor:
        self.calls += 1
        pixels = clips / 255 if isinstance(clips, Tensor) else normalized_clips(clips, [0] * 3, [1] * 3, torch.float32)
        return 20 * pixels.flatten(1).mean(1)[:, None] * self.scale


def _dataset(folder: Path, **options: int) -> ViewDataset:
    videos = number_classes(read_mixture(str(folder), labelled=True), allow_empty=True)
    shape = {"num_frames": 8, "frame_stride": 1, "size": (32, 32), "short_side": 32}
    return ViewDataset(videos, **{**shape, "segments": 2, "crops": 2, **options})


def _all(model: nn.Module, dataset: ViewDataset, batch_size: int, rank: int, world_size: int) -> list[ViewLogits]:
    with torch.no_grad():
        return list(view_logits(model, dataset, batch_size, 0, rank, world_size))


@pytest.mark.parametrize("batch_size, world_size, calls", [(1, 1, 8), (3, 1, 3), (1, 3, 3), (2, 3, 2), (1, 10, 1)])
def test_every_video_comes_once_and_ranks_keep_pace(
    batch_size: int, world_size: int, calls: int, held_out: Path
) -> None:
    dataset, seen = _dataset(held_out), []
    for rank in range(world_size):
        model = Brightness()
        found = _all(model, dataset, batch_size, rank, world_size)
        assert model.calls == calls == len(found)
        for each in found:
            assert each.logits.shape == (len(each.index), 4, 4) and not each.missing
            seen += each.index.tolist()
    assert sorted(seen) == list(range(8))


def test_an_unreadable_video_leaves_the_others_in_place(held_out: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(held_out.rglob("*.mp4"))]
    names[1] = names[4] = str(tmp_path / "gone.mp4")
    for k in range(8):
        (tmp_path / f"link{k}.mp4").symlink_to(names[k])
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/link{k}.mp4 {k % 4}\n" for k in range(8)))
    found = _all(Brightness(), _dataset(tmp_path / "list.txt"), 2, 0, 1)
    assert [each.index.tolist() for each in found] == [[0], [2, 3], [5], [6, 7]]
    assert [each.label.tolist() for each in found] == [[0], [2, 3], [1], [2, 3]]
    assert [[missing.index for missing in each.missing] for each in found] == [[1], [], [4], []]


def _figures(views: EvaluationViews, model: nn.Module, world_size: int) -> dict[str, list[float]]:
    with torch.no_grad():
        shares = [views.figures(model, rank, world_size) for rank in range(world_size)]
    return {name: torch.stack([share[name] for share in shares]).sum(0).tolist() for name in shares[0]}


def test_figures_are_means_over_videos(held_out: Path) -> None:
    dataset, model = _dataset(held_out, segments=1, crops=1), Brightness()
    found = _all(model, dataset, 1, 0, 1)
    logits = torch.cat([each.logits[:, 0] for each in found])
    labels = torch.cat([each.label for each in found])
    for batch_size, world_size in ((1, 1), (3, 1), (2, 3)):
        figures = _figures(EvaluationViews(dataset, batch_size, 0), model, world_size)
        assert figures["loss"] == pytest.approx([F.cross_entropy(logits, labels, reduction="sum").item(), 8], rel=1e-5)
        assert figures["top1"] == [(logits.argmax(1) == labels).sum().item(), 8]
        assert figures["top5"] == [8, 8]


def test_unreadable_videos_count_nowhere_and_are_said_once(
    held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = next(held_out.rglob("*.mp4"))
    (tmp_path / "good.mp4").symlink_to(video)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/good.mp4 1\n{tmp_path}/gone.mp4 0\n")
    views = EvaluationViews(_dataset(tmp_path / "list.txt", segments=1, crops=1), 1, 0)
    for _ in range(2):
        assert _figures(views, Brightness(2), 1)["loss"][1] == 1
    out = capsys.readouterr().out
    assert out.count("unreadable video left out of the evaluation") == 1 and "gone.mp4: no such file" in out


def test_places_of_labels() -> None:
    """A constant score is right for one class of C."""
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.5, 0.0, 0.5]])
    assert label_places(scores, torch.tensor([2, 0, 2, 2])).tolist() == [1, 0, 2, 1]
    random = torch.rand(50, 7)
    order = np.argsort(-random.numpy(), axis=1, kind="stable")
    labels = torch.arange(50) % 7
    assert label_places(random, labels).tolist() == [list(order[k]).index(k % 7) for k in range(50)]


def test_figures_of_constant_logits_are_those_of_chance(held_out: Path) -> None:
    model = Brightness()
    nn.init.zeros_(model.scale)
    figures = _figures(EvaluationViews(_dataset(held_out, segments=1, crops=1), 8, 0), model, 1)
    assert figures["top1"] == [2, 8]  # of 4 classes with 2 videos each
    assert len(tiny.CLASSES) == 4


def test_logits_that_are_no_numbers_are_no_hits(held_out: Path) -> None:
    model = Brightness()
    with torch.no_grad():
        model.scale.fill_(float("nan"))
        found = EvaluationViews(_dataset(held_out, segments=1, crops=1), 4, 0).figures(model, 0, 1)
    assert found["top1"].tolist() == [0, 8] == found["top5"].tolist()
