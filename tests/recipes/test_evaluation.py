"""`--eval-every`: the mean loss over a list does not depend on batches, ranks and the rest of the run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import load_published, load_weights
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.recipes.pretrain import PretrainConfig, Pretraining, pretrain


def _evaluated(config: PretrainConfig, world_size: int = 1) -> list[float]:
    """Sum of losses and number of rows, added up over ranks."""
    recipe = Pretraining(config)
    torch.manual_seed(0)
    model, _ = recipe.build(torch.device("cpu"), print)
    with torch.no_grad():
        shares = [recipe.evaluate(model.eval(), rank, world_size)["loss"] for rank in range(world_size)]
    return torch.stack(shares).sum(0).tolist()


def _config(videos: Path, tmp_path: Path, **options: Any) -> PretrainConfig:
    return tiny.settings(videos, tmp_path, **{"eval_data": str(videos), "eval_every": 3, **options})


@pytest.mark.parametrize("masks", [{}, {"mask": "random", "decoder_mask": "random"}], ids=str)
def test_the_loss_of_every_video_counts_once(masks: dict[str, Any], videos: Path, tmp_path: Path) -> None:
    """Against a loop over single clips, for batches that do and do not divide the list, on one or more ranks."""
    config = _config(videos, tmp_path, **masks)
    dataset = config.data.eval_dataset(config.run.seed)
    torch.manual_seed(0)
    model = VideoMAEForPretraining(config.model_config()).eval()
    total, rows = 0.0, 0.0
    for video in range(8):
        batch = dataset[video, video]
        assert batch.sample.tolist() == [video]
        plan = config.masks.plan(batch.sample, model.config.grid, config.run.seed)
        with torch.no_grad():
            loss = model(batch.clips, plan).item()
        count = plan.predicted.shape[1] if plan.loss_weight is None else plan.loss_weight.sum().item()
        total, rows = total + loss * count, rows + count
    for batch_size, world_size, workers in ((1, 1, 0), (3, 1, 0), (8, 1, 1), (2, 2, 0), (3, 3, 0), (5, 8, 0)):
        found = _evaluated(config.with_options(batch_size=batch_size, workers=workers), world_size)
        assert found[1] == rows
        assert found[0] == pytest.approx(total, rel=1e-6)


def test_ranks_make_as_many_batches(videos: Path, tmp_path: Path) -> None:
    """Seven videos on three ranks: two ranks have no video for their second batch, and make one nonetheless."""
    listed = tmp_path / "seven.txt"
    listed.write_text("".join(f"{videos}/video{number}.mp4\n" for number in range(7)))
    recipe = Pretraining(_config(videos, tmp_path, eval_data=str(listed)))
    recipe.build(torch.device("cpu"), print)
    found = [[(b.sample.tolist(), counts) for b, counts in recipe.eval_videos.batches(rank, 3)] for rank in range(3)]
    assert found == [
        [([0, 3], True), ([6], True)],
        [([1, 4], True), ([0], False)],
        [([2, 5], True), ([0], False)],
    ]


def test_unreadable_videos_are_left_out_and_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other video replaces an unreadable one."""
    listed = tmp_path / "list.txt"
    names = [f"{videos}/video0.mp4", f"{tmp_path}/absent.mp4", f"{videos}/video2.mp4", f"{tmp_path}/gone.mp4"]
    listed.write_text("".join(f"{name}\n" for name in names))
    config = _config(videos, tmp_path / "run", eval_data=str(listed))
    good, of_all = _evaluated(config), _evaluated(_config(videos, tmp_path, batch_size=1))
    assert good[1] * 4 == of_all[1]
    capsys.readouterr()
    pretrain(config.with_options(max_steps=6))
    said = [line for line in capsys.readouterr().out.splitlines() if "left out of the evaluation" in line]
    assert said == [
        f"unreadable video left out of the evaluation: {tmp_path}/{name}.mp4: no such file"
        for name in ("absent", "gone")
    ]
    assert len(read_log(tmp_path / "run", EVALUATIONS)) == 2


def test_evaluation_changes_nothing_that_is_trained(videos: Path, tmp_path: Path) -> None:
    with_evaluation = _config(videos, tmp_path / "with", drop_path=0.2)
    pretrain(with_evaluation)
    pretrain(tiny.settings(videos, tmp_path / "without", drop_path=0.2))
    assert tiny.losses(tmp_path / "with") == tiny.losses(tmp_path / "without")
    rows = read_log(tmp_path / "with", EVALUATIONS)
    assert [row["step"] for row in rows] == ["3", "6", "9", "12"]
    model = VideoMAEForPretraining(with_evaluation.model_config()).eval()
    load_weights(model, load_published(tmp_path / "with" / "checkpoints" / "step-00000012" / "model.safetensors"))
    recipe = Pretraining(with_evaluation)
    recipe.build(torch.device("cpu"), print)
    with torch.no_grad():
        total, rows_of_loss = recipe.evaluate(model, 0, 1)["loss"].tolist()
    assert float(rows[-1]["loss"]) == pytest.approx(total / rows_of_loss, rel=1e-12)


def test_evaluations_of_a_continued_run(videos: Path, tmp_path: Path) -> None:
    pretrain(_config(videos, tmp_path / "whole"))
    pretrain(_config(videos, tmp_path / "part", max_steps=7))
    pretrain(_config(videos, tmp_path / "part", resume=True))
    assert (tmp_path / "part" / EVALUATIONS).read_text() == (tmp_path / "whole" / EVALUATIONS).read_text()


@pytest.mark.parametrize("missing", ["/no/such/list.txt", "/no/such/folder"])
def test_missing_evaluation_data(missing: str, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=missing):
        pretrain(_config(videos, tmp_path, eval_data=missing))
