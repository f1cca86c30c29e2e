"""Two processes compute the same as one process with the same global batch."""

import shlex
import sys
from pathlib import Path

import pytest
import torch

from tests.recipes import aligned, paired, tiny
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import load_published
from videomae_fast.recipes.align import align
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.pretrain import pretrain


@pytest.mark.slow
def test_two_processes_equal_one(videos: Path, tmp_path: Path) -> None:
    (videos.parent / "garbage.mp4").write_bytes(b"no video")
    names = [*(f"{videos.name}/video{number}.mp4" for number in range(8)), "garbage.mp4"]
    listed = videos.parent / "two.txt"
    listed.write_text("".join(f"{name} 0 -1\n" for name in names))
    pretrain(tiny.settings(listed, tmp_path / "one", epochs=4, batch_size=4, max_steps=5))
    pretrain(tiny.settings(listed, tmp_path / "one", epochs=4, batch_size=4, resume=True))
    two = tiny.settings(listed, tmp_path / "two", epochs=4, batch_size=2, max_steps=5)
    out = tiny.torchrun(tiny.arguments(two))
    assert out.count("weights, in the published layout") == 1  # one process speaks
    tiny.launch(tiny.arguments(tiny.settings(listed, tmp_path / "two", epochs=4, batch_size=2, resume=True)))

    one, two = tiny.losses(tmp_path / "one"), tiny.losses(tmp_path / "two")
    assert len(one) == len(two) == 8
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=0)
    ends = [list_checkpoints(tmp_path / name) for name in ("one", "two")]
    assert [path.name for path in ends[0]] == [path.name for path in ends[1]] == ["step-00000006", "step-00000008"]
    weights = [load_published(found[-1] / "model.safetensors") for found in ends]
    assert weights[0].keys() == weights[1].keys()
    # Where a gradient is all rounding, AdamW turns its sign into a step of size lr: single weights prove nothing.
    one_weights, two_weights = (torch.cat([found[name].flatten() for name in weights[0]]) for found in weights)
    assert (one_weights - two_weights).norm() < 1e-4 * one_weights.norm()
    assert sorted(path.name for path in ends[1][-1].glob("random_states_*")) == [
        "random_states_0.pkl",
        "random_states_1.pkl",
    ]
    assert not list((tmp_path / "two" / "checkpoints").glob(".unfinished*"))
    with pytest.raises(ValueError, match=r"'videos_per_step': 4.*'videos_per_step': 2"):  # two processes began it
        pretrain(tiny.settings(listed, tmp_path / "two", epochs=4, batch_size=2, resume=True))
    counts = [_replacements(tmp_path / name) for name in ("one", "two")]
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_two_processes_accumulate_and_evaluate_as_one(videos: Path, tmp_path: Path) -> None:
    """Seven videos to evaluate on: two ranks share them unevenly, and no video counts twice."""
    listed = videos.parent / "seven.txt"
    listed.write_text("".join(f"{videos.name}/video{number}.mp4\n" for number in range(7)))
    shared = {"epochs": 4, "eval_data": str(listed), "eval_every": 2, "mask": "random", "decoder_mask": "none"}
    pretrain(tiny.settings(videos, tmp_path / "one", batch_size=4, **shared))
    tiny.launch(tiny.arguments(tiny.settings(videos, tmp_path / "two", batch_size=1, accumulate=2, **shared)))
    one, two = (torch.tensor(tiny.losses(tmp_path / name)) for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=0)
    evaluations = [read_log(tmp_path / name, EVALUATIONS) for name in ("one", "two")]
    assert [row["step"] for row in evaluations[0]] == [row["step"] for row in evaluations[1]] == ["2", "4", "6", "8"]
    found = [[float(row["loss"]) for row in rows] for rows in evaluations]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def _replacements(run: Path) -> int:
    """The sum over the reports of all processes."""
    return sum(int(line.rsplit("\t", 1)[1]) for path in run.glob("bad_videos*.tsv") for line in path.open())


@pytest.mark.slow
def test_two_processes_align_as_one(videos: Path, tmp_path: Path) -> None:
    """With teachers in both, several masks, dropped branches and an uneven share of the evaluation."""
    teachers = {
        "video_teacher": str(aligned.make_video_teacher(tmp_path / "video")),
        "image_teacher": str(aligned.make_image_teacher(tmp_path / "image.safetensors")),
    }
    listed = videos.parent / "seven.txt"
    listed.write_text("".join(f"{videos.name}/video{number}.mp4\n" for number in range(7)))
    shared = teachers | {"epochs": 4, "masks_per_clip": 2, "drop_path": 0.5, "eval_data": str(listed), "eval_every": 4}
    align(aligned.settings(videos, tmp_path / "one", batch_size=4, **shared))
    two = aligned.settings(videos, tmp_path / "two", batch_size=1, accumulate=2, **shared)
    tiny.launch(tiny.arguments(two, "align"), "tests.recipes.aligned")
    names = ("loss", "image", "pooled", "video")
    for file in ("log.csv", EVALUATIONS):
        rows = [read_log(tmp_path / run, file) for run in ("one", "two")]
        assert len(rows[0]) == len(rows[1]) == (8 if file == "log.csv" else 2)
        one, two_ = (torch.tensor([[float(row[name]) for name in names] for row in found]) for found in rows)
        torch.testing.assert_close(two_, one, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trained", "frozen", "fused", "kept"])
def test_two_processes_contrast_as_one(kind: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """The loss is over the pairs of both, in several parts, of both kinds; an uneven share of the evaluation."""
    listed = pairs.parent / "seven.jsonl"
    listed.write_text("".join(pairs.read_text().splitlines(keepends=True)[:7]))
    shared = {"epochs": 2, "drop_path": 0.5, "eval_data": str(listed), "eval_every": 4}
    if kind == "frozen":
        shared |= {"train": "last:1", "freeze_text": True, "loss": "siglip"}
    if kind == "fused":  # hidden words are averaged in each process, whatever their number
        shared |= {"fusion_layers": 1, "negatives": "global", "words_weight": 0.0}
    own = [{}, {"micro_batch": 0 if kind == "fused" else 1}]
    if kind == "kept":  # each process computes the features of its share of the clips and captions
        shared |= {"train": "none", "mask_ratio": 0.0, "image_mask_ratio": 0.0, "freeze_text": True}
        own = [each | {"video_features": str(tmp_path / name)} for each, name in zip(own, "ab", strict=True)]
    contrast(paired.settings(pairs, text_model, tmp_path / "one", batch_size=4, **shared, **own[0]))
    two = paired.settings(pairs, text_model, tmp_path / "two", batch_size=2, **shared, **own[1])
    tiny.launch(tiny.arguments(two, "contrast"), "tests.recipes.paired")
    for file, names in (("log.csv", ("loss", "scale")), (EVALUATIONS, ("loss", "text_to_video", "video_to_text"))):
        rows = [read_log(tmp_path / run, file) for run in ("one", "two")]
        assert len(rows[0]) == len(rows[1]) == (8 if file == "log.csv" else 2)
        one, two_ = (torch.tensor([[float(row[name]) for name in names] for row in found]) for found in rows)
        torch.testing.assert_close(two_, one, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_processes_with_different_batch_sizes_are_refused(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """Both say so, and none waits for the other."""
    config = paired.settings(pairs, text_model, tmp_path / "run")
    command = shlex.join([sys.executable, "-m", "tests.recipes.paired", *tiny.arguments(config, "contrast")])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    process = tiny.start(
        [*launcher, "bash", "-c", f"{command} --batch-size $((RANK + 2))"], variables={"ACCELERATE_USE_CPU": "true"}
    )
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode != 0
    assert err.count("error: batch_size must be the same in every process, got 2, 3") == 2, err
