"""Contrastive pre-training that cannot work says why, before it reads a video if it can."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import paired
from videomae_fast.recipes.contrast import ContrastConfig, contrast

pytest.importorskip("transformers")

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "micro_batch": ({"batch_size": 6, "micro_batch": 4}, "micro_batch 4 does not divide batch_size 6"),
    "text_features": ({"text_features": "kept"}, "text_features 'kept' needs freeze_text"),
    "bias": ({"temperature": "siglip"}, "temperature 'siglip' does not go with loss 'clip': siglip's has a bias"),
    "no bias": ({"loss": "siglip", "temperature": "internvideo2"}, "temperature 'internvideo2' does not go with loss"),
    "fps": ({"fps": 0.0}, "fps must be positive, got 0.0"),
    "mask_ratio": ({"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
    "eval_every": ({"eval_every": 5}, "eval_every 5 needs eval_data"),
    "warm-up": ({"epochs": 1}, "warmup_epochs 1 must be less than epochs 1"),
    "list_format": ({"list_format": "csv"}, "has no option 'list_format'"),
    "crops_per_video": ({"crops_per_video": 2}, "has no option 'crops_per_video'"),
}
RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": ""}, "data is empty: name a list of videos and images with captions"),
    "no text model": ({"text_model": ""}, "text_model is empty: name a folder of a text encoder"),
    "no folder": ({"text_model": "bert-base-uncased"}, "text_model must be a folder .* got bert-base-uncased"),
    "one pair": ({"batch_size": 1}, "batch_size must be at least 2 on one device: a single pair"),
    "large batch": ({"batch_size": 16}, "does not fill one step of batch_size 16"),
    "train": (
        {"train": "last:3"},
        "train must be 'all', 'head' or 'last:K' with K from 1 to 2, got 'last:3'; or 'none'",
    ),
    "grid": ({"image_size": 40}, r"image_size \(40, 40\) must be multiples of tubelet_size 2 and patch_size 16"),
    "frames": ({"num_frames": 5}, "num_frames 5 and image_size .* must be multiples of tubelet_size 2"),
    "tubelet": ({"model": "internvideo2-tiny", "patch_size": 16, "tubelet_size": 2}, "images need tubelet_size 1"),
    "tokens": ({"max_tokens": 17}, "max_tokens must be at most 16, the positions"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    options, message = OPTIONS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        ContrastConfig.from_options(**options)


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    options, message = RUNS[name]
    with pytest.raises(ValueError, match=message):
        contrast(paired.settings(pairs, text_model, tmp_path, **options))


def test_a_tokenizer_of_another_model(pairs: Path, tmp_path: Path) -> None:
    text = paired.write_text_model(tmp_path / "text", words=10)
    with pytest.raises(ValueError, match="tokenizer has 17 tokens, and the text model 10: it is of another model"):
        contrast(paired.settings(pairs, text, tmp_path))


@pytest.mark.parametrize("same", ["video", "caption"])
def test_pairs_that_all_agree(same: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    numbers = [(0, word) if same == "video" else (number, "rows") for number, word in enumerate(paired.WORDS[:8])]
    lines = [json.dumps({"path": f"video{number}.mp4", "caption": caption}) for number, caption in numbers]
    data = pairs.parent / "agree.jsonl"
    data.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"all videos of data .*agree.jsonl have one {same}, so that no pair is a neg"):
        contrast(paired.settings(data, text_model, tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"path": "video0.mp4", "caption": " "}, r"bad\.jsonl:2: .*empty"),
        ({"path": "video0.mp4"}, r"bad\.jsonl:2: .*caption"),
        ({"caption": "rows"}, r"bad\.jsonl:2: .*path"),
    ],
)
def test_lists(line: dict[str, str], message: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    data = pairs.parent / "bad.jsonl"
    data.write_text(json.dumps({"path": "video1.mp4", "caption": "rows"}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=message):
        contrast(paired.settings(data, text_model, tmp_path))


def test_one_pair_to_evaluate_on(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    data = pairs.parent / "single.jsonl"
    data.write_text(pairs.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="eval_data must have two readable pairs or more, got 1"):
        contrast(paired.settings(pairs, text_model, tmp_path, eval_data=str(data), eval_every=1))


def test_a_run_continues_with_the_same_pairs_and_tower_only(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    frozen = {"freeze_text": True, "train": "last:1"}
    contrast(paired.settings(pairs, text_model, tmp_path, max_steps=2, **frozen))
    others = paired.write_pairs(tmp_path / "others", images=False)
    for changes, message in (
        ({"loss": "siglip"}, "loss: was 'clip', now 'siglip'"),
        ({"micro_batch": 2}, "micro_batch: was 0, now 2"),
        ({"data": str(others), "text_features": str(tmp_path / "new")}, "'pairs': 16.*'pairs': 8"),
    ):
        with pytest.raises(ValueError, match=message):
            contrast(paired.settings(pairs, text_model, tmp_path, resume=True, **frozen | changes))
