"""InternVideo2's second stage with sound: six losses, images without it, and a run that learns from sound alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import paired, sounding, tiny
from tests.recipes.test_contrast_fusion import STAGE2
from tests.recipes.test_contrastive import gradients, prepared
from videomae_fast.cli import main
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import beats_config_of
from videomae_fast.models import AudioVideoTextModel
from videomae_fast.recipes.contrast import Contrast, contrast
from videomae_fast.recipes.contrast_towers import build_sizes
from videomae_fast.recipes.two_towers import read_two_towers
from videomae_kernels import contrastive_loss

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounding.write_beats(tmp_path_factory.mktemp("beats") / "beats.pt")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounding.write_sounds(tmp_path_factory.mktemp("sounds"), silent=2)


def options(beats: Path, **changes: Any) -> dict[str, Any]:
    return STAGE2 | {"audio_model": str(beats)} | changes


def test_the_loss_is_the_weighted_sum(sounds: Path, beats: Path, text_model: Path, tmp_path: Path) -> None:
    weights = {"contrast_weight": 2.0, "matching_weight": 3.0, "words_weight": 0.5}
    config = paired.settings(sounds, text_model, tmp_path, **options(beats, **weights))
    recipe, model, (batch, _) = prepared(config)
    assert isinstance(model, AudioVideoTextModel)
    (part,) = recipe.parts(batch, 1, torch.device("cpu"))
    part = part._replace(sound=part.sound.double())  # type: ignore[union-attr]
    loss, numbers = recipe.step(model, part, 0)
    assert batch.captions is not None
    given = {"spectrogram": part.sound, "seed": 3, "pair_ids": batch.ids}
    found = model(batch.clips, *batch.captions, batch.sample, part.visible, **given)
    expected = torch.zeros((), dtype=torch.float64)
    for prefix, output in (("", found), ("sound_", found.sound)):
        pairs = contrastive_loss(*output.pairs, x_ids=batch.video_id, y_ids=batch.caption_id)
        for name, value in (("contrast", pairs), ("matching", output.matching), ("words", output.words)):
            torch.testing.assert_close(numbers[prefix + name].double(), value.double(), rtol=1e-6, atol=0)
            expected = expected + weights[f"{name}_weight"] * value
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in trained if name.startswith("audio_encoder.")]
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_images_have_three_losses(pairs: Path, beats: Path, text_model: Path, tmp_path: Path) -> None:
    """Of videos without a stream of sound, and of images, whose numbers of sound are none."""
    recipe, model, batches = prepared(paired.settings(pairs, text_model, tmp_path, **options(beats)))
    assert sorted(batch.is_image for batch in batches) == [False, True]
    for batch in batches:
        assert (batch.sound is None) == batch.is_image and batch.silent == (0 if batch.is_image else 4)
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        if part.sound is not None:
            part = part._replace(sound=part.sound.double())
        loss, numbers = recipe.step(model, part, 0)
        assert numbers.keys() == set(recipe.numbers) and math.isfinite(loss.detach())
        of_sound = [numbers[f"sound_{name}"].detach() for name in ("contrast", "matching", "words")]
        assert [math.isnan(value) for value in of_sound] == [batch.is_image] * 3


def test_micro_batches_have_the_contrast_of_one_batch(
    sounds: Path, beats: Path, text_model: Path, tmp_path: Path
) -> None:
    """Where the other losses, whose negatives are of a micro-batch, do not count."""
    alone = {"matching_weight": 0.0, "words_weight": 0.0, "batch_size": 4}
    found = []
    for size in (0, 2):
        config = paired.settings(sounds, text_model, tmp_path, micro_batch=size, **options(beats, **alone))
        recipe, model, (batch, _) = prepared(config)
        assert batch.sound is not None
        found.append(gradients(recipe, model, replace(batch, sound=batch.sound.double())))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    scale = max(float(grad.abs().max()) for grad in found[0][1].values())
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-6, atol=1e-8 * scale, msg=lambda t, n=name: n + t)
    assert found[0][1]["av_fusion.weight"].abs().max() > 0


@pytest.mark.slow
def test_captions_are_learnt_from_sound_alone(beats: Path, text_model: Path, tmp_path: Path) -> None:
    """The frames of all videos are the same: only captions that are compared with sound can be told apart."""
    sounds = sounding.write_sounds(tmp_path / "sounds", seconds=5.0)
    config = paired.settings(sounds, text_model, tmp_path, **options(beats, batch_size=8, mask_ratio=0.0))
    recipe = Contrast(config)
    torch.manual_seed(3)
    model, optimizer = recipe.build(torch.device("cpu"), lambda line: None)
    for group in optimizer.param_groups:
        group["lr"] = 6e-4
    batch = next(recipe.batches(0, 1, 0, 1))
    found = []
    for _ in range(80):
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        loss, numbers = recipe.step(model, part, 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        found.append((float(numbers["contrast"].detach()), float(numbers["sound_contrast"].detach())))
    video, sound = (sum(values[-8:]) / 8 for values in zip(*found, strict=True))
    assert video > 2.0, video  # ln 8 = 2.08 is chance
    assert sound < 1.2, sound


def test_sound_reaches_the_losses_of_sound_alone(sounds: Path, beats: Path, text_model: Path, tmp_path: Path) -> None:
    """With the sounds of two videos swapped, what is compared with sound changes, and nothing else does."""
    recipe, model, (batch, _) = prepared(paired.settings(sounds, text_model, tmp_path, **options(beats)))
    (part,) = recipe.parts(batch, 1, torch.device("cpu"))
    assert part.sound is not None
    kept, swapped = part.sound.double(), part.sound.double()[[1, 0, 2, 3]]
    first, second = (recipe.step(model, part._replace(sound=sound), 0)[1] for sound in (kept, swapped))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"sound_contrast", "sound_matching", "sound_words"}


def test_the_command(
    sounds: Path, beats: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The audio tower stays as it is; the run says what has no sound, and is evaluated by the video alone."""
    changes = {"max_steps": 2, "eval_data": str(sounds), "eval_every": 2}
    config = paired.settings(sounds, text_model, tmp_path / "run", **STAGE2, **changes)
    config.save(tmp_path / "config.json")
    assert main(["contrast", "--audio-model", str(beats), "--config", str(tmp_path / "config.json")]) == 0
    assert "2 of 8 clips have no sound: zeros were in its place" in capsys.readouterr().out
    assert read_log(tmp_path / "run")[0].keys() >= {"contrast", "sound_contrast", "sound_matching", "sound_words"}
    assert math.isfinite(float(read_log(tmp_path / "run", EVALUATIONS)[0]["loss"]))
    towers = read_two_towers(str(tmp_path / "run"))
    assert isinstance(towers.model, AudioVideoTextModel)
    state, original = towers.model.audio_encoder.state_dict(), torch.load(beats)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())


def test_a_run_is_read_without_the_file_of_beats(sounds: Path, text_model: Path, tmp_path: Path) -> None:
    beats = sounding.write_beats(tmp_path / "beats.pt")
    found = contrast(paired.settings(sounds, text_model, tmp_path / "run", max_steps=1, **options(beats)))
    expected = beats_config_of(beats)
    beats.unlink()
    towers = read_two_towers(str(tmp_path / "run"))
    assert isinstance(towers.model, AudioVideoTextModel) and towers.model.audio_encoder.config == expected
    state = paired.state_of(found.checkpoint)
    assert all(torch.equal(tensor, state[name]) for name, tensor in towers.model.state_dict().items())
    (found.checkpoint / "audio.json").write_text('{"dim": 30}')
    with pytest.raises(ValueError, match=r"audio\.json beside '.*' is damaged: dim 30 is not divisible by heads 12"):
        read_two_towers(str(tmp_path / "run"))


def test_a_run_continues_exactly(sounds: Path, text_model: Path, tmp_path: Path) -> None:
    """Without the file of BEATs, too: a checkpoint has its weights and its sizes, also to predict memory."""
    beats = sounding.write_beats(tmp_path / "beats.pt")
    given = options(beats, micro_batch=2, epochs=2)
    whole = contrast(paired.settings(sounds, text_model, tmp_path / "whole", max_steps=3, **given))
    contrast(paired.settings(sounds, text_model, tmp_path / "two", max_steps=1, **given))
    beats.unlink()
    continued = paired.settings(sounds, text_model, tmp_path / "two", max_steps=3, resume=True, **given)
    assert isinstance(build_sizes(continued), AudioVideoTextModel)
    two = contrast(continued)
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "two")
    weights = [(result.checkpoint / "model.safetensors").read_bytes() for result in (whole, two)]
    assert weights[0] == weights[1]
    with pytest.raises(ValueError, match=r"audio_model must be a file of BEATs, got .*beats\.pt"):
        contrast(paired.settings(sounds, text_model, tmp_path / "new", resume=True, **given))


def test_a_run_starts_from_one_with_sound(sounds: Path, beats: Path, text_model: Path, tmp_path: Path) -> None:
    first = contrast(paired.settings(sounds, text_model, tmp_path / "a", max_steps=1, **options(beats)))
    given = options(beats, init=str(tmp_path / "a"), train="none", mask_ratio=0.0)
    _, model, _ = prepared(paired.settings(sounds, text_model, tmp_path / "b", **given))
    state = paired.state_of(first.checkpoint)
    assert all(torch.equal(tensor.float(), state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion_layers": 0}, "audio_model '.*' needs fusion_layers: these layers read the sound"),
        ({"video_features": "kept", "train": "none", "mask_ratio": 0.0, "image_mask_ratio": 0.0}, "does not go with"),
        ({"audio_model": "nothing.pt"}, r"audio_model must be a file of BEATs, got nothing\.pt"),
    ],
)
def test_errors(
    changes: dict[str, Any], message: str, sounds: Path, beats: Path, text_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(paired.settings(sounds, text_model, tmp_path, **options(beats, **changes)))


def test_a_file_that_is_no_beats(sounds: Path, text_model: Path, tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is no file of BEATs: it must hold settings, 'cfg', and weights, 'model'"):
        contrast(paired.settings(sounds, text_model, tmp_path / "run", **options(tmp_path / "a.pt")))
