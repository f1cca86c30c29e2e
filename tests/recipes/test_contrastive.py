"""Contrastive pre-training: what a step computes, and runs that learn, continue and evaluate."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import paired, tiny
from videomae_fast.cli import main
from videomae_fast.data.captioned import CaptionedBatch
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.models.dual_encoder import VideoTextModel
from videomae_fast.recipes.contrast import Contrast, ContrastConfig, contrast
from videomae_kernels import contrastive_loss

pytest.importorskip("transformers")
INTERNVIDEO2 = {"model": "internvideo2-tiny", "patch_size": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "videomae": {},
    "internvideo2": INTERNVIDEO2 | {"loss": "siglip"},
    "last": {"train": "last:1", "temperature": "internvideo2", "pool": "attention"},
    "none": INTERNVIDEO2 | {"train": "none"},
}


def prepared(config: ContrastConfig) -> tuple[Contrast, VideoTextModel, list[CaptionedBatch]]:
    """A recipe as the loop builds it, its model in float64, and its first two batches: one of each kind."""
    torch.manual_seed(config.run.seed)
    recipe = Contrast(config)
    model, _ = recipe.build(torch.device("cpu"), lambda line: None)
    assert isinstance(model, VideoTextModel)
    model.double()
    return recipe, model, list(recipe.batches(0, 1, 0, 2))


def gradients(recipe: Contrast, model: VideoTextModel, batch: CaptionedBatch) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss and gradients of a step, in as many parts as the configuration says."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for part in recipe.parts(batch, recipe.config.optimizer.parts, torch.device("cpu")):
        loss, numbers = recipe.step(model, part, 0)
        assert numbers.keys() == set(recipe.numbers)
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", TOWERS)
def test_micro_batches_have_the_gradients_of_one_batch(
    kind: str, pairs: Path, text_model: Path, tmp_path: Path
) -> None:
    """In float64, with dropped branches, of videos and of images."""
    options = TOWERS[kind] | {"drop_path": 0.5}
    recipes = [prepared(paired.settings(pairs, text_model, tmp_path, micro_batch=size, **options)) for size in (0, 2)]
    kinds = [batch.is_image for batch in recipes[0][2]]
    assert sorted(kinds) == [False, True]
    recipes[1][1].load_state_dict(recipes[0][1].state_dict())
    for number in range(2):
        (whole, expected), (divided, found) = (gradients(r, m, batches[number]) for r, m, batches in recipes)
        torch.testing.assert_close(divided, whole, rtol=1e-6, atol=0)  # the loss is float32
        assert expected.keys() == found.keys() and all(grad is not None for grad in found.values())
        scale = max(float(grad.abs().max()) for grad in expected.values())
        for name, grad in expected.items():
            torch.testing.assert_close(
                found[name], grad, rtol=1e-6, atol=1e-8 * scale, msg=lambda text, n=name: n + text
            )


def test_a_step_is_its_formula(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    recipe, model, batches = prepared(paired.settings(pairs, text_model, tmp_path))
    for batch in batches:
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        assert part.visible is not None and part.captions is not None
        image_tokens, clip_tokens = 4, 8
        assert part.visible.shape == (4, image_tokens * 3 // 4 if batch.is_image else clip_tokens // 2)
        loss, numbers = recipe.step(model, part, 0)
        pixels = batch.clips
        features = model(pixels, *batch.captions, part.visible)
        assert features.video.dtype == torch.float64
        ids = {"x_ids": batch.video_id, "y_ids": batch.caption_id}
        expected = contrastive_loss(features.video, features.text, model.logit_scale.exp(), **ids)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(numbers["scale"], model.logit_scale.exp())


def test_both_passes_draw_alike(pairs: Path, tmp_path: Path) -> None:
    """Dropout of the text tower and dropped branches: the features of the second pass are those of the first."""
    text = paired.write_text_model(tmp_path / "text", dropout=0.5)
    config = paired.settings(pairs, text, tmp_path, micro_batch=2, drop_path=0.5)
    recipe, model, (batch, _) = prepared(config)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for part in recipe.parts(batch, 2, torch.device("cpu")):
        torch.rand(7)
        recipe.step(model, part, 0)
    assert len(seen) == 4
    for first, second in zip(seen[:2], seen[2:], strict=True):
        assert torch.equal(first.video, second.video) and torch.equal(first.text, second.text)
    (again,) = recipe.parts(batch, 1, torch.device("cpu"))
    again = again._replace(numbers=again.numbers + 100)
    recipe.step(model, again, 0)
    assert not torch.equal(seen[-1].text[:2], seen[0].text)


def test_it_learns(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """And a run is evaluated, on captions that it has learnt."""
    config = paired.settings(
        pairs, text_model, tmp_path, epochs=40, eval_data=str(pairs), eval_every=40, lr=0.05, batch_size=8
    )
    contrast(config)
    losses = torch.tensor(tiny.losses(tmp_path))
    assert len(losses) == 80
    assert losses[-8:].mean() < 0.5 * losses[:8].mean()
    first, last = read_log(tmp_path, EVALUATIONS)
    assert first.keys() == {"step", "loss", "text_to_video", "video_to_text"}
    assert float(last["loss"]) < float(first["loss"])
    assert all(float(last[name]) >= 3 / 16 for name in ("text_to_video", "video_to_text"))  # chance: 1 / 16
    scales = [float(row["scale"]) for row in read_log(tmp_path)]
    assert scales[0] == pytest.approx(1 / 0.07) and scales[-1] != scales[0]


@pytest.mark.parametrize("temperature", ["clip", "internvideo2"])
def test_the_temperature_stays_in_its_limits(temperature: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """A huge learning rate moves it to one end or the other."""
    options = {"temperature": temperature, "lr": 1e5, "train": "none", "clip_grad": 0.0, "max_steps": 6}
    contrast(paired.settings(pairs, text_model, tmp_path, freeze_text=True, **options))
    scales = torch.tensor([float(row["scale"]) for row in read_log(tmp_path)])
    limits = {"clip": (0.0, 100.0), "internvideo2": (2.0, 1000.0)}[temperature]
    assert scales.min() >= limits[0] and scales.max() <= limits[1] * (1 + 1e-5)
    assert scales.unique().numel() > 1


def test_a_run_continues_exactly(pairs: Path, tmp_path: Path) -> None:
    """With dropout, dropped branches, and micro-batches; the order of kinds goes on, too."""
    text = paired.write_text_model(tmp_path / "text", dropout=0.3)
    options = {"drop_path": 0.5, "micro_batch": 2, "epochs": 2}
    whole = contrast(paired.settings(pairs, text, tmp_path / "whole", **options))
    contrast(paired.settings(pairs, text, tmp_path / "two", max_steps=3, **options))
    two = contrast(paired.settings(pairs, text, tmp_path / "two", resume=True, **options))
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "two")
    weights = [(result.checkpoint / "model.safetensors").read_bytes() for result in (whole, two)]
    assert weights[0] == weights[1]


def test_what_is_frozen_stays(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    config = paired.settings(pairs, text_model, tmp_path, train="last:1", freeze_text=True, max_steps=3)
    torch.manual_seed(config.run.seed)
    before = {k: v.clone() for k, v in Contrast(config).build(torch.device("cpu"), print)[0].state_dict().items()}
    after = paired.state_of(contrast(config).checkpoint)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kept = ("text_encoder.", "text_proj.", "vision_encoder.blocks.0.", "vision_encoder.patch_embed.")
    assert not [
        name for name in changed if name.startswith((*kept, "vision_encoder.image_embed.", "vision_encoder.pos"))
    ]
    assert {"vision_proj.weight", "vision_encoder.norm.weight", "vision_encoder.blocks.1.attn.proj.weight"} <= changed


def test_captions_that_are_cut_are_counted(
    pairs: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrast(paired.settings(pairs, text_model, tmp_path, max_tokens=5, max_steps=4))
    assert "of 16 texts were cut to the most tokens allowed" in capsys.readouterr().out


def test_the_command(pairs: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = paired.settings(pairs, text_model, tmp_path / "run", max_steps=2)
    config.save(tmp_path / "config.json")
    arguments = ["contrast", "--config", str(tmp_path / "config.json"), "--loss", "siglip", "--train", "last:1"]
    assert main([*arguments, "--image-mask-ratio", "0.5", "--micro-batch", "2", "--freeze-text"]) == 0
    out = capsys.readouterr().out
    assert "computing the features of 20 captions" in out and "weights of both towers: " in out
    assert (tmp_path / "run" / "curves.png").is_file()
