"""Retrieval by a run of `contrast`, against features made one by one."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recipes import paired, tiny
from tests.recipes.towers import evaluation, pooled_rows, text_features, view
from videomae_fast._text import read_table
from videomae_fast.cli import main
from videomae_fast.data import CaptionedVideos, read_captions
from videomae_fast.models.dual_encoder import VideoTextModel, unit_rows
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.evaluate_retrieval import RetrievalResult, evaluate_retrieval
from videomae_fast.recipes.evaluate_zeroshot import evaluate_zeroshot
from videomae_fast.recipes.start import last_checkpoint
from videomae_fast.recipes.two_towers import read_two_towers

pytest.importorskip("transformers")


@torch.no_grad()
def written_out(data: Path, run: Path) -> dict[str, dict[str, int]]:
    """The rank of each caption and each video of a list, one at a time, from the whole matrix."""
    towers = read_two_towers(str(run))
    listed = read_captions(data)
    entries = [listed.captioned(index) for index in range(len(listed))]
    names = list(dict.fromkeys(entry.name for entry in entries))
    captions = list(dict.fromkeys(caption for entry in entries for caption in entry.captions))
    first = {entry.name: entry for entry in reversed(entries)}
    video = []
    for name in names:
        entry = first[name]
        views = view(CaptionedVideos([entry]), 1 if entry.is_image else 4)
        video.append(towers.model.project_video(pooled_rows(towers, views))[0])
    similar = torch.stack([text_features(towers, caption) for caption in captions]) @ torch.stack(video).T
    right = np.array([[any(e.name == n and c in e.captions for e in entries) for n in names] for c in captions])
    sides = {"text": (captions, similar.numpy(), right), "video": (names, similar.numpy().T, right.T)}
    return {
        side: {
            query: 1 + int((row[~own] >= row[own].max()).sum())
            for query, row, own in zip(queries, matrix, owns, strict=True)
        }
        for side, (queries, matrix, owns) in sides.items()
    }


def ranks(result: RetrievalResult) -> dict[str, dict[str, int]]:
    names = [entry.name for entry in result.videos]
    sides = {"text": (result.captions, result.text_to_video), "video": (names, result.video_to_text)}
    return {side: dict(zip(keys, found.rank.tolist(), strict=True)) for side, (keys, found) in sides.items()}


def test_ranks_are_those_of_features_made_one_by_one(pairs: Path, two_towers_run: Path) -> None:
    """Of videos and images together, with captions that two videos share and videos with two captions."""
    result = evaluate_retrieval(evaluation(pairs, two_towers_run))
    expected = written_out(pairs, two_towers_run)
    assert len(result.videos) == 16 and len(result.captions) == 20 and not result.missing
    assert ranks(result) == expected
    assert len(set(expected["text"].values())) > 3  # neither perfect nor collapsed
    figures = result.figures()
    for side, direction in (("text", "text_to_video"), ("video", "video_to_text")):
        found = np.array(list(expected[side].values()))
        for top in (1, 5, 10):
            assert figures[f"{direction}_r{top}"] == pytest.approx((found <= top).mean())
        assert figures[f"{direction}_mdr"] == np.median(found)
    assert figures["text_to_video_r5"] > 5 / 16  # chance, of one right video


def test_a_line_for_each_caption_is_one_video(pairs: Path, two_towers_run: Path, tmp_path: Path) -> None:
    """The same figures as of a list with all captions of a video in one line."""
    videos = [json.loads(line) for line in pairs.read_text().splitlines()]
    videos = [video for video in videos if video["path"].endswith("mp4")]
    for entry in videos:
        entry["path"] = str(pairs.parent / entry["path"])
        entry["caption"] = ["the red columns move", *entry["caption"]]  # all share one
    together, apart = tmp_path / "together.jsonl", tmp_path / "apart.tsv"
    together.write_text("".join(json.dumps(video) + "\n" for video in videos))
    lines = [f"{video['path']}\t{caption}\n" for video in videos for caption in video["caption"]]
    apart.write_text("path\tcaption\n" + "".join(reversed(lines)))
    found = [evaluate_retrieval(evaluation(data, two_towers_run)) for data in (together, apart)]
    assert ranks(found[0]) == ranks(found[1]) == written_out(together, two_towers_run)
    assert ranks(found[0])["text"]["the red columns move"] == 1  # any of all videos is right


def test_what_cannot_be_read_is_missing(pairs: Path, two_towers_run: Path, tmp_path: Path) -> None:
    """With its captions, unless another video has them; figures are those of the list without it."""
    lines = pairs.read_text().splitlines()
    broken = [json.dumps({"path": "broken.mp4", "caption": ["never shown", json.loads(lines[0])["caption"][0]]})]
    shutil.copytree(pairs.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines[:3], *broken, *lines[3:]]) + "\n")
    result = evaluate_retrieval(evaluation(tmp_path / "pairs.jsonl", two_towers_run))
    assert [Path(each.path).name for each in result.missing] == ["broken.mp4"]
    assert "never shown" not in result.captions and result.figures()["missing"] == 1
    assert any("broken.mp4: " in line for line in result.lines())
    whole = evaluate_retrieval(evaluation(pairs, two_towers_run))
    assert ranks(result)["text"] == ranks(whole)["text"]


@torch.no_grad()
def test_views_are_averaged(pairs: Path, two_towers_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their mean has length 1 again. Features around the mean of all views differ, where those of the run agree."""
    options = {"segments": 2, "crops": 2, "sampling": "dense", "frame_stride": 1}
    towers = read_two_towers(str(two_towers_run))
    dataset, index = evaluate_retrieval(evaluation(pairs, two_towers_run, **options)).views[0]
    rows = pooled_rows(towers, dataset, index)
    centre = rows.mean(0)

    def project(self: VideoTextModel, pooled: Tensor) -> Tensor:
        return unit_rows(pooled[:, :16] - centre[:16])

    monkeypatch.setattr(VideoTextModel, "project_video", project)
    found = evaluate_retrieval(evaluation(pairs, two_towers_run, **options))
    mean = project(towers.model, rows).mean(0)
    assert len(rows) == 4 and mean.norm() < 0.9
    expected = torch.stack([text_features(towers, caption) for caption in found.captions]) @ mean / mean.norm()
    torch.testing.assert_close(
        found.video_to_text.similarity[0], expected.sort(descending=True)[0][:5], rtol=0, atol=1e-3
    )


def test_views_are_those_of_training_unless_said(pairs: Path, two_towers_run: Path) -> None:
    result = evaluate_retrieval(evaluation(pairs, two_towers_run))
    video, image = (next(d for d, _ in result.views if d.num_frames == frames) for frames in (4, 1))
    assert (video.sampling, video.segments, video.crops, video.size, image.segments) == ("uniform", 1, 1, (32, 32), 1)
    changed = evaluate_retrieval(evaluation(pairs, two_towers_run, num_frames=8, sampling="fps", fps=2.0))
    assert (changed.views[0][0].num_frames, changed.views[0][0].sampling, changed.views[0][0].fps) == (8, "fps", 2.0)


def test_averaged_weights_are_a_run_too(pairs: Path, two_towers_run: Path) -> None:
    averaged = last_checkpoint(two_towers_run) / "model_ema.safetensors"
    one, other = (evaluate_retrieval(evaluation(pairs, path)) for path in (two_towers_run, averaged))
    assert not torch.equal(one.text_to_video.similarity, other.text_to_video.similarity)


def test_the_command_writes_figures_tables_and_a_picture(
    pairs: Path, two_towers_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = evaluation(pairs, two_towers_run, output=str(tmp_path))
    assert main(tiny.arguments(config, "evaluate")) == 0
    out = capsys.readouterr().out
    assert "text to video: R@1 " in out and "video to text: R@1 " in out and " of 20" in out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    result = evaluate_retrieval(config)
    assert metrics == result.figures() and metrics["videos"] == 16
    rows = read_table(tmp_path / "text_to_video.tsv")
    assert rows[0][:4] == ["caption", "rank", "top1", "similarity1"] and len(rows) == 21
    for caption, rank, top1, *_ in rows[1:]:
        owners = [entry.name for entry in result.videos if caption in entry.captions]
        assert (rank == "1") == (top1 in owners)
    assert len(read_table(tmp_path / "video_to_text.tsv")) == 17
    assert (tmp_path / "retrieval.png").stat().st_size > 1000


@pytest.mark.slow
def test_two_processes_find_what_one_finds(pairs: Path, two_towers_run: Path, tmp_path: Path) -> None:
    """16 videos and 20 captions in batches of 3; and one video that cannot be read."""
    shutil.copytree(pairs.parent, tmp_path / "data")
    (tmp_path / "data" / "video3.mp4").write_bytes(b"no video")
    found = []
    for processes in (1, 2):
        config = evaluation(tmp_path / "data" / "pairs.jsonl", two_towers_run, output=str(tmp_path / str(processes)))
        arguments = tiny.arguments(config, "evaluate")
        if processes == 2:
            assert tiny.launch(arguments, "tests.recipes.paired").count("text to video: R@1") == 1
        else:
            assert main(arguments) == 0
        names = ("metrics.json", "text_to_video.tsv", "video_to_text.tsv", "missing.tsv")
        found.append([(tmp_path / str(processes) / name).read_text() for name in names])
    assert found[0][0] == found[1][0] and found[0][3] == found[1][3]
    ranked = [[[row[:2] for row in read_table(tmp_path / p / f"{n}.tsv")] for n in ("text_to_video", "video_to_text")]
              for p in ("1", "2")]  # fmt: skip
    assert ranked[0] == ranked[1]


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "data is empty: name a list of videos with captions"),
        ({"init": ""}, "init is empty: name a run of contrast"),
        ({"init": "/gone"}, "init: /gone does not exist"),
        ({"init": "CLASSIFIER"}, "init must be a run of contrast, got .*unknown"),
        ({"init": "BARE"}, "init must be a run of contrast, which has a config.json: there is no .*config.json"),
        ({"text_model": "/gone"}, "text_model"),
        ({"image_size": 40}, "40"),
        ({"data": "BROKEN"}, r"none of the 2 videos can be read:\n"),
        ({"data": "ONE"}, "data must have two videos or more that can be read, got one of 2"),
        ({"sampling": "fps", "segments": 2}, "segments must be 1 with sampling 'fps'"),
        ({"task": "zeroshot", "data": "NUMBERS"}, "classes of the videos have numbers only, and zeroshot"),
        ({"classes": "names.txt"}, "task retrieval has captions, not classes"),
        ({"average": "logits"}, "task retrieval does not use average: leave it at 'softmax'"),
        ({"init_classes": "x"}, "task retrieval does not use init_classes"),
        ({"templates": "x"}, "templates 'x' are for task zeroshot, got task retrieval"),
        ({"task": "classify", "text_model": "x"}, "text_model 'x' is for a task of two towers, got task classify"),
    ],
)  # fmt: skip
def test_bad_input(
    changes: dict[str, Any], message: str, pairs: Path, two_towers_run: Path, classifier_run: Path, tmp_path: Path
) -> None:
    shutil.copy(last_checkpoint(two_towers_run) / "model.safetensors", tmp_path / "bare.safetensors")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = pairs.parent / "video0.mp4"
    (tmp_path / "broken.tsv").write_text(f"path\tcaption\n{tmp_path}/broken.mp4\ta\n{tmp_path}/gone.mp4\tb\n")
    (tmp_path / "one.tsv").write_text(f"path\tcaption\n{tmp_path}/broken.mp4\ta\n{good}\tb\n")
    (tmp_path / "numbers.txt").write_text(f"{good} 0\n{good} 1\n")
    paths = {"CLASSIFIER": classifier_run, "BARE": tmp_path / "bare.safetensors", "BROKEN": tmp_path / "broken.tsv",
             "ONE": tmp_path / "one.tsv", "NUMBERS": tmp_path / "numbers.txt"}  # fmt: skip
    changes = {
        name: str(paths.get(value, value)) if isinstance(value, str) else value for name, value in changes.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config = evaluation(pairs, two_towers_run, **changes)
        evaluate_zeroshot(config) if config.evaluation.task == "zeroshot" else evaluate_retrieval(config)


def test_damaged_weights_are_no_figures(pairs: Path, two_towers_run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = last_checkpoint(two_towers_run)
    shutil.copy(checkpoint / "config.json", tmp_path)
    for name, message in (
        ("vision_proj.weight", "features of 8 videos are NaN"),
        ("text_proj.bias", "features of texts"),
    ):
        state = load_file(checkpoint / "model.safetensors")
        state[name].fill_(math.nan)
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            evaluate_retrieval(evaluation(pairs, tmp_path))


def test_captions_that_are_cut_are_counted(
    two_towers_run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{pairs.parent}/video{number}.mp4\t{'red ' * length}\n" for number, length in enumerate((3, 6, 7, 20))]
    (tmp_path / "long.tsv").write_text("path\tcaption\n" + "".join(lines))
    evaluate_retrieval(evaluation(tmp_path / "long.tsv", two_towers_run))
    assert "2 of 4 texts were cut to 8 tokens" in capsys.readouterr().out


def test_a_run_with_fusion_layers_is_evaluated_by_its_towers(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    contrast(paired.settings(pairs, text_model, tmp_path, max_steps=1, fusion_layers=1, text_pool="first"))
    result = evaluate_retrieval(evaluation(pairs, tmp_path))
    assert ranks(result) == written_out(pairs, tmp_path)
