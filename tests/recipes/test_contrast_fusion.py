"""InternVideo2's second stage: contrast, matching and hidden words in one run, and its second phase."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import paired, tiny
from tests.recipes.test_contrastive import gradients, prepared
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.models.fusion import VideoTextFusionModel
from videomae_fast.recipes.contrast import Contrast, ContrastConfig, contrast
from videomae_fast.recipes.two_towers import read_two_towers
from videomae_kernels import contrastive_loss

pytest.importorskip("transformers")
STAGE2: dict[str, Any] = {
    "model": "internvideo2-tiny",
    "patch_size": 16,
    "fusion_layers": 1,
    "text_pool": "first",
    "temperature": "internvideo2",
}


def test_the_loss_is_the_weighted_sum(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    weights = {"contrast_weight": 2.0, "matching_weight": 3.0, "words_weight": 0.5}
    recipe, model, (batch, _) = prepared(paired.settings(pairs, text_model, tmp_path, **STAGE2, **weights))
    assert isinstance(model, VideoTextFusionModel)
    (part,) = recipe.parts(batch, 1, torch.device("cpu"))
    loss, numbers = recipe.step(model, part, 0)
    found = model(batch.clips, *batch.captions, batch.sample, part.visible, seed=3, pair_ids=batch.ids)
    pairs_loss = contrastive_loss(*found.pairs, x_ids=batch.video_id, y_ids=batch.caption_id)
    for name, value in (("contrast", pairs_loss), ("matching", found.matching), ("words", found.words)):
        torch.testing.assert_close(numbers[name].double(), value.double(), rtol=1e-6, atol=0)
    expected = 2 * pairs_loss + 3 * found.matching + 0.5 * found.words
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=0)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_micro_batches_have_the_contrast_of_one_batch(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """Where the other losses, whose negatives are of a micro-batch, do not count."""
    options = STAGE2 | {"matching_weight": 0.0, "words_weight": 0.0, "batch_size": 4}
    found = []
    for size in (0, 2):
        recipe, model, (batch, _) = prepared(paired.settings(pairs, text_model, tmp_path, micro_batch=size, **options))
        found.append(gradients(recipe, model, batch))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    scale = max(float(grad.abs().max()) for grad in found[0][1].values())
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-6, atol=1e-8 * scale, msg=lambda t, n=name: n + t)


def test_both_phases(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """The masked phase learns; the unmasked one begins with its weights, and leaves the video tower as it is."""
    masked = {"epochs": 12, "batch_size": 8, "lr": 0.05, "eval_data": str(pairs), "eval_every": 24}
    first = contrast(paired.settings(pairs, text_model, tmp_path / "masked", **STAGE2, **masked))
    rows = read_log(tmp_path / "masked")
    assert len(rows) == 24
    for name in ("contrast", "words"):
        values = [float(row[name]) for row in rows]
        assert sum(values[-4:]) < 0.9 * sum(values[:4]), name
    prior = 0.6366  # of telling pairs by their share alone, a third: so few steps learn no more
    assert all(float(row["matching"]) < prior + 0.02 for row in rows[-4:])
    assert float(read_log(tmp_path / "masked", EVALUATIONS)[0]["loss"]) < 3.5
    unmasked = {"mask_ratio": 0.0, "image_mask_ratio": 0.0, "train": "none", "init": str(tmp_path / "masked")}
    second = contrast(paired.settings(pairs, text_model, tmp_path / "unmasked", max_steps=3, **STAGE2, **unmasked))
    before, after = (paired.state_of(result.checkpoint) for result in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("vision_encoder.")]
    assert {"itm_head.weight", "vision_proj.weight", "text_encoder.bert.embeddings.word_embeddings.weight"} <= changed
    assert any("crossattention" in name for name in changed)


def test_a_run_continues_exactly(pairs: Path, tmp_path: Path) -> None:
    text = paired.write_text_model(tmp_path / "text", dropout=0.3)
    options = STAGE2 | {"micro_batch": 2, "epochs": 2}
    whole = contrast(paired.settings(pairs, text, tmp_path / "whole", max_steps=6, **options))
    contrast(paired.settings(pairs, text, tmp_path / "two", max_steps=3, **options))
    two = contrast(paired.settings(pairs, text, tmp_path / "two", max_steps=6, resume=True, **options))
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "two")
    weights = [(result.checkpoint / "model.safetensors").read_bytes() for result in (whole, two)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion_layers": 2}, "fusion_layers must leave a text layer of the 2 layers in .*, got 2"),
        ({"max_tokens": 17}, "max_tokens must be at most 16"),
        ({"text_model": ""}, "text_model is empty"),
        ({"word_ratio": 0.0}, r"word_ratio must be in \(0, 1\]"),
        ({"micro_batch": 1}, "micro_batch must be at least 2 with fusion_layers 1, .* got 1"),
    ],
)
def test_errors(options: dict[str, Any], message: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(paired.settings(pairs, text_model, tmp_path, **STAGE2 | options))


def test_fusion_needs_a_bert(pairs: Path, tmp_path: Path) -> None:
    text = paired.write_text_model(tmp_path / "text")
    config = json.loads((text / "config.json").read_text())
    for changes, kind in (({"model_type": "roberta"}, "'roberta'"), (dict.fromkeys(config), "None")):
        (text / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=f"fusion_layers 1 needs a BERT in text_model.*text has {kind}"):
            contrast(paired.settings(pairs, text, tmp_path, **STAGE2))


def test_a_frozen_text_tower_cannot_learn_to_fuse() -> None:
    with pytest.raises(ValueError, match="freeze_text does not go with fusion_layers 1"):
        ContrastConfig.from_options(fusion_layers=1, freeze_text=True)


def test_the_average_is_evaluated_saved_and_continued(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    options = STAGE2 | {"ema_decay": 0.8, "eval_data": str(pairs), "eval_every": 6, "max_steps": 6, "micro_batch": 2}
    whole = contrast(paired.settings(pairs, text_model, tmp_path / "whole", **options))
    contrast(paired.settings(pairs, text_model, tmp_path / "two", **options | {"max_steps": 3}))
    two = contrast(paired.settings(pairs, text_model, tmp_path / "two", resume=True, **options))
    files = ("model_ema.safetensors", "model.safetensors")
    for file in files:
        assert (whole.checkpoint / file).read_bytes() == (two.checkpoint / file).read_bytes()
    recipe = Contrast(paired.settings(pairs, text_model, tmp_path / "again", **options))
    recipe.build(torch.device("cpu"), lambda line: None)
    losses = []
    for file in files:
        with torch.no_grad():
            found, _ = recipe.evaluate(read_two_towers(str(whole.checkpoint / file)).model, 0, 1)["loss"]
        losses.append(float(found))
    (row,) = read_log(tmp_path / "whole", EVALUATIONS)
    assert float(row["loss"]) == pytest.approx(losses[0], rel=1e-5) != pytest.approx(losses[1], rel=1e-4)
