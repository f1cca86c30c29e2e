"""Evaluation: the published procedure on the same views, and what becomes of videos that cannot be read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.baselines.published.classifier import PublishedClassifier
from benchmarks.baselines.published.views import published_dense_view, published_uniform_view
from tests.data.files import sequential
from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.interop import read_classifier
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD
from videomae_fast.recipes.evaluate import EvaluateConfig, evaluate
from videomae_fast.recipes.finetune import finetune

LABELS = [1, 1, 0, 0, 3, 3, 2, 2]  # of the held-out videos, in the order of their paths: a space is before a slash


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of 12 frames, whose views differ: blocks of any colour, others in each third of the time. The last
    video has 5 frames, fewer than a view."""
    folder = tmp_path_factory.mktemp("varied")
    for number in range(8):
        blocks = np.random.default_rng(number).integers(0, 256, (3, 3, 4, 3), dtype=np.uint8)
        frames = blocks.repeat(4, axis=0).repeat(16, axis=1).repeat(16, axis=2)
        name = tiny.CLASSES[number // 2]
        (folder / name).mkdir(exist_ok=True)
        tiny.write_video(folder / name / f"video{number}.mp4", frames[: 5 if number == 7 else 12])
    return folder


def _checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def _published_scores(videos: Path, classifier_run: Path, config: EvaluateConfig) -> np.ndarray:
    """View by view, without any shared work: softmax of each. (videos, views, C)."""
    found = read_classifier(_checkpoint(classifier_run))
    model = PublishedClassifier.from_config(found.config, found.num_classes).eval()
    model.load_state_dict(found.state)
    mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    views, rows = (config.views.segments, config.views.crops), []
    for path in sorted(videos.rglob("*.mp4"), key=str):
        frames, scores = np.stack(sequential(path)), []
        for view in np.ndindex(views):
            if config.views.sampling != "uniform":
                clip = published_dense_view(frames, 8, config.views.frame_stride, 48, view, views)
            else:
                clip = published_uniform_view(frames, 8, 48, view, views)
            pixels = torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2) / 255
            with torch.no_grad():
                scores.append(model(((pixels - mean) / std)[None])[0].softmax(0))
        rows.append(torch.stack(scores).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    "options", [{}, {"segments": 3, "crops": 3, "frame_stride": 2}, {"sampling": "uniform", "segments": 2}], ids=str
)
def test_scores_are_those_of_the_published_procedure(
    options: dict[str, Any], varied: Path, classifier_run: Path
) -> None:
    config = tiny.evaluation(varied, classifier_run, batch_size=3, **options)
    found = evaluate(config).evaluation
    expected = _published_scores(varied, classifier_run, config)
    assert expected.std(1).max() > 0.01 and expected.mean(1).std(0).max() > 0.01  # both of views and of videos
    np.testing.assert_allclose(found.scores, expected.mean(1), rtol=0, atol=2e-5)
    assert found.labels.tolist() == LABELS


def test_logits_can_be_averaged_instead(varied: Path, classifier_run: Path) -> None:
    """As the softmax of the mean of logits, which is the normalised geometric mean of the views' scores."""
    config = tiny.evaluation(varied, classifier_run)
    expected = np.exp(np.log(_published_scores(varied, classifier_run, config)).mean(1))
    scores = evaluate(config.with_options(average="logits")).evaluation.scores
    np.testing.assert_allclose(scores, expected / expected.sum(1, keepdims=True), rtol=0, atol=2e-5)
    assert np.abs(scores - evaluate(config).evaluation.scores).max() > 1e-4


def test_batches_and_workers_change_nothing(held_out: Path, classifier_run: Path) -> None:
    expected = evaluate(tiny.evaluation(held_out, classifier_run)).evaluation.scores
    for options in ({"batch_size": 3}, {"batch_size": 8, "workers": 1}):
        found = evaluate(tiny.evaluation(held_out, classifier_run, **options)).evaluation.scores
        np.testing.assert_allclose(found, expected, atol=1e-6)


def _with_missing(held_out: Path, tmp_path: Path) -> Path:
    """A folder with two videos that cannot be read, the first and one in the middle."""
    videos = shutil.copytree(held_out, tmp_path / "videos")
    for path in (videos / "columns fast" / "video100.mp4", videos / "rows fast" / "video101.mp4"):
        path.write_bytes(b"no video")
    return videos


@pytest.mark.parametrize("batch_size", [1, 3])
def test_unreadable_videos_are_missing_and_never_replaced(
    batch_size: int, held_out: Path, classifier_run: Path, tmp_path: Path
) -> None:
    videos, whole = _with_missing(held_out, tmp_path), evaluate(tiny.evaluation(held_out, classifier_run))
    found = evaluate(tiny.evaluation(videos, classifier_run, batch_size=batch_size))
    assert [each.index for each in found.missing] == [0, 5] == np.flatnonzero(~found.evaluation.read).tolist()
    assert [each.path for each in found.missing] == [found.paths[0], found.paths[5]]
    read = found.evaluation.read
    np.testing.assert_allclose(found.evaluation.scores[read], whole.evaluation.scores[read], atol=1e-6)
    assert not found.evaluation.scores[~read].any()
    lines = found.lines()
    assert "6 videos" in lines[0] and lines[1] == "2 videos are missing, because they cannot be read:"
    assert len(lines) == 4 and "video101.mp4" in lines[3]
    found.write(tmp_path / "results")
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert (metrics["videos"], metrics["missing"]) == (6, 2)
    missing = (tmp_path / "results" / "missing.tsv").read_text().splitlines()
    assert len(missing) == 2 and missing[1].startswith(f"{found.paths[5]}\t")
    predictions = (tmp_path / "results" / "predictions.tsv").read_text().splitlines()
    assert len(predictions) == 1 + 6 and not any("/rows fast/video101.mp4" in line for line in predictions)
    whole.write(tmp_path / "results")
    assert not (tmp_path / "results" / "missing.tsv").exists()


def test_files_of_results(
    held_out: Path, classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--frame-stride", "1", "--segments", "2", "--crops", "1", "--workers", "0", "--precision", "fp32"]
    command = [
        "evaluate",
        "--data",
        str(held_out),
        "--init",
        str(classifier_run),
        "--output",
        str(tmp_path / "out"),
        *options,
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "top-1" in out and f"figures, predictions, classes, confusion: {tmp_path / 'out'}" in out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {".lock", "metrics.json", "predictions.tsv", "classes.tsv", "confusion.png"}
    result = evaluate(tiny.evaluation(held_out, classifier_run, crops=1))
    rows = [line.split("\t") for line in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()]
    assert rows[0] == ["path", "label", "prediction", "score", "top1", "top2", "top3", "top4"]
    scores = result.evaluation.scores
    for number, row in enumerate(rows[1:]):
        assert row[0] == result.paths[number] and int(row[1]) == LABELS[number]
        assert list(map(int, row[4:])) == np.argsort(-scores[number], kind="stable").tolist()
        assert row[2] == row[4] and float(row[3]) == pytest.approx(scores[number].max(), abs=1e-6)
    classes = [line.split("\t") for line in (tmp_path / "out" / "classes.tsv").read_text().splitlines()]
    assert [row[1] for row in classes[1:]] == list(tiny.CLASSES) and [row[2] for row in classes[1:]] == ["2"] * 4


def test_init_is_what_is_evaluated(held_out: Path, labelled: Path, classifier_run: Path, tmp_path: Path) -> None:
    """Whatever checkpoints the output folder holds; the average of the weights is one more file."""
    other = tmp_path / "other"
    finetune(tiny.finetuning(labelled, other, image_size=48, max_steps=1, seed=8, init_scale=1.0))
    options = ["--frame-stride", "1", "--segments", "2", "--crops", "2", "--workers", "0", "--precision", "fp32"]
    assert (
        main(["evaluate", "--data", str(held_out), "--init", str(classifier_run), "--output", str(other), *options])
        == 0
    )
    found = (other / "predictions.tsv").read_text()
    scores = {}
    for init in (
        classifier_run,
        _checkpoint(classifier_run) / "model.safetensors",
        _checkpoint(classifier_run) / "model_ema.safetensors",
        other,
    ):
        result = evaluate(tiny.evaluation(held_out, init))
        result.write(tmp_path / "alone")
        scores[init.name] = (tmp_path / "alone" / "predictions.tsv").read_text()
    assert found == scores[classifier_run.name] == scores["model.safetensors"]
    assert found != scores["other"] and found != scores["model_ema.safetensors"]


def test_some_classes_in_another_order(held_out: Path, classifier_run: Path, tmp_path: Path) -> None:
    """The softmax is over these classes alone."""
    (tmp_path / "classes.txt").write_text("rows\ncolumns fast\n")
    videos = tmp_path / "videos"
    for name in ("rows", "columns fast"):
        shutil.copytree(held_out / name, videos / name)
    options = {"segments": 1, "crops": 1}
    found = evaluate(
        tiny.evaluation(videos, classifier_run, classes=str(tmp_path / "classes.txt"), **options)
    ).evaluation
    assert found.class_names == ("rows", "columns fast") and found.labels.tolist() == [1, 1, 0, 0]
    whole = evaluate(tiny.evaluation(held_out, classifier_run, **options)).evaluation.scores[[0, 1, 6, 7]][:, [2, 1]]
    np.testing.assert_allclose(found.scores, whole / whole.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(held_out: Path, classifier_run: Path, tmp_path: Path) -> None:
    """Of seven videos, which do not divide by two, two cannot be read; no video counts twice."""
    videos = _with_missing(held_out, tmp_path)
    (videos / "rows" / "video101.mp4").unlink()
    texts = []
    for processes in (1, 2):
        config = tiny.evaluation(videos, classifier_run, batch_size=2, output=str(tmp_path / str(processes)))
        arguments = tiny.arguments(config, "evaluate")
        out = tiny.launch(arguments) if processes == 2 else str(main(arguments))
        assert processes == 1 or out.count("top-1") == 1  # one process speaks
        files = ("metrics.json", "predictions.tsv", "classes.tsv", "missing.tsv")
        texts.append([(tmp_path / str(processes) / name).read_text() for name in files])
    assert texts[0] == texts[1]
