"""Zero-shot classification by a run of `contrast`, against features made one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.recipes import tiny
from tests.recipes.towers import evaluation, pooled_rows, text_features, view
from videomae_fast.cli import main
from videomae_fast.data import Annotations, VideoFile
from videomae_fast.recipes.evaluate_zeroshot import TEMPLATES, evaluate_zeroshot, prompts_of, read_templates
from videomae_fast.recipes.two_towers import read_two_towers

pytest.importorskip("transformers")


def test_zero_shot_scores_are_those_of_prompts_made_one_by_one(
    held_out: Path, two_towers_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "templates.txt").write_text("the {} move\n\n  image a {}\n")
    config = evaluation(held_out, two_towers_run, task="zeroshot", templates=str(tmp_path / "templates.txt"))
    result = evaluate_zeroshot(config)
    towers = read_two_towers(str(two_towers_run))
    with torch.no_grad():
        classes = []
        for name in tiny.CLASSES:
            prompts = [f"the {name} move", f"image a {name}"]
            mean = torch.stack([text_features(towers, prompt) for prompt in prompts]).mean(0)
            classes.append(mean / mean.norm())
        scores = []
        for path in sorted(held_out.rglob("*.mp4"), key=str):
            views = view(Annotations([VideoFile(str(path), 0)]), 4)
            row = towers.model.project_video(pooled_rows(towers, views))[0]
            scores.append(torch.stack(classes) @ row)
    assert result.evaluation.class_names == tiny.CLASSES
    np.testing.assert_allclose(result.evaluation.scores, torch.stack(scores).numpy(), rtol=0, atol=1e-6)
    assert result.evaluation.read.all() and len(set(result.evaluation.labels.tolist())) == 4


def test_the_command_of_zero_shot_writes_what_evaluate_writes(
    held_out: Path, two_towers_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = evaluation(held_out, two_towers_run, task="zeroshot", output=str(tmp_path))
    assert main(tiny.arguments(config, "evaluate")) == 0
    assert "8 videos" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.json", "predictions.tsv", "classes.tsv", "confusion.png"} <= names


def test_prompts() -> None:
    assert prompts_of(("cut_in_half", "{0}"), ("a {}", "{} b")) == ["a cut in half", "cut in half b", "a {0}", "{0} b"]
    assert all(template.count("{}") == 1 for template in TEMPLATES) and len(TEMPLATES) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {}\nb\n", r"templates.txt:2: expected \{\} once, got 'b'"),
        ("{} {}\n", r"templates.txt:1: expected \{\} once"),
        (" \n", r"templates.txt has no template"),
        (b"\xff{}", r"templates.txt is no file of templates"),
    ],
)
def test_bad_templates(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=message):
        read_templates(str(path))
    with pytest.raises(FileNotFoundError, match="there is no file of templates at /gone"):
        read_templates("/gone")
