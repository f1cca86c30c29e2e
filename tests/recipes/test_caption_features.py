"""Features of both towers of a run of `contrast`, in files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videomae_fast.cli import main
from videomae_fast.recipes.caption_features import write_caption_features
from videomae_fast.recipes.features import FeaturesConfig, write_features
from videomae_fast.recipes.two_towers import read_two_towers

pytest.importorskip("transformers")


def written(**options: Any) -> FeaturesConfig:
    return FeaturesConfig.from_options(**({"precision": "fp32"} | options))


@torch.no_grad()
def test_captions(pairs: Path, two_towers_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--captions", str(pairs), "--init", str(two_towers_run), "--output", str(tmp_path), "--precision", "fp32"]
    assert main(["features", *given]) == 0
    assert "features of 20 captions" in capsys.readouterr().out
    values, facts = np.load(tmp_path / "captions.npy"), json.loads((tmp_path / "captions.json").read_text())
    listed = [json.loads(line)["caption"] for line in pairs.read_text().splitlines()]
    flat = [text for each in listed for text in ([each] if isinstance(each, str) else each)]
    assert facts["captions"] == list(dict.fromkeys(flat)) and (facts["max_tokens"], facts["precision"]) == (8, "fp32")
    model, tokenizer, _ = read_two_towers(str(two_towers_run))
    for row, caption in zip(values, facts["captions"], strict=True):
        expected = model.project_text(model.encode_text(*tokenizer([caption])[0]).pooled)[0]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mean", "tubelets", "tokens"])
def test_windows_of_videos(kind: str, pairs: Path, two_towers_run: Path, tmp_path: Path) -> None:
    """The mean is what captions are compared with; tokens are the tower's own."""
    (tmp_path / "list.txt").write_text(f"{pairs.parent}/video0.mp4\n")
    options = {"data": str(tmp_path / "list.txt"), "init": str(two_towers_run), "output": str(tmp_path / "out")}
    assert write_features(written(kind=kind, window_stride=8, keep_tail=False, **options)) == 0
    (values,) = (np.load(path) for path in (tmp_path / "out").rglob("*.npy"))
    shapes = {"mean": (16,), "tubelets": (2, 48), "tokens": (2, 2, 2, 48)}
    assert values.shape == (2, *shapes[kind])
    if kind == "mean":
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ""}, "captions is empty"),
        ({"init": ""}, "init is empty"),
        ({"output": ""}, "output is empty"),
        ({"data": "videos"}, "data and captions are two kinds of features"),
        ({"init": "CLASSIFIER"}, "init must be a run of contrast"),
    ],
)
def test_bad_input(
    changes: dict[str, str], message: str, pairs: Path, two_towers_run: Path, classifier_run: Path, tmp_path: Path
) -> None:
    given = {"captions": str(pairs), "init": str(two_towers_run), "output": str(tmp_path)} | changes
    if given["init"] == "CLASSIFIER":
        given["init"] = str(classifier_run)
    with pytest.raises(ValueError, match=message):
        write_caption_features(written(**given))
    assert not (tmp_path / "captions.npy").exists()


def test_two_kinds_and_other_models(pairs: Path, two_towers_run: Path, classifier_run: Path, tmp_path: Path) -> None:
    given = {"data": str(pairs), "output": str(tmp_path)}
    with pytest.raises(ValueError, match="data and captions are two kinds of features"):
        write_features(written(init=str(two_towers_run), captions=str(pairs), **given))
    with pytest.raises(ValueError, match=r"text_model 'x' is of a run of contrast, and .* is none"):
        write_features(written(init=str(classifier_run), text_model="x", **given))
