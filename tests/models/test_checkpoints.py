"""Weights of other code in our models, and back."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.baselines.published import PublishedVideoMAE, published_loss, sinusoid_table
from tests.models.test_published_exactness import bool_masks
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_fast.interop import (
    CheckpointError,
    from_huggingface,
    load_published,
    load_weights,
    save_published,
    to_huggingface,
)

CONFIG = VideoMAEConfig(24, 3, 3, 16, 2, decoder_depth=2, num_frames=4, image_size=(32, 32), patch_size=8)


def randomised(model: Any, seed: int) -> Any:
    """`model` in float64 with nothing at its initial 0 or 1."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double()


def ours(config: VideoMAEConfig = CONFIG, seed: int = 1) -> VideoMAEForPretraining:
    model = randomised(VideoMAEForPretraining(config), seed)
    # The published code's float32 tables become exact ones in float64, so ours do too.
    model.encoder.position.copy_(sinusoid_table(config.num_tokens, config.encoder_dim, torch.float64)[0])
    model.position.copy_(sinusoid_table(config.num_tokens, config.decoder_dim, torch.float64)[0])
    return model


def published(seed: int = 2) -> PublishedVideoMAE:
    return randomised(PublishedVideoMAE.from_config(CONFIG), seed)


def clip() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)


WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "module": lambda state: {"module": state},
    "compiled": lambda state: {"model": {"_orig_mod." + name: tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_published_checkpoint(wrapper: str, tmp_path: Path) -> None:
    theirs, model = published(), ours()
    plan = make_masks(torch.arange(2), CONFIG.grid, mask_ratio=0.7)
    hidden, not_decoded = bool_masks(plan)
    expected = published_loss(theirs(clip(), hidden, not_decoded), clip(), hidden, not_decoded, CONFIG.patch)
    assert (model(clip(), plan) - expected).abs() > 1e-3
    torch.save(WRAPPERS[wrapper](theirs.state_dict()), tmp_path / "checkpoint-3.pth")
    assert load_weights(model, load_published(tmp_path / "checkpoint-3.pth")) == ([], [])
    torch.testing.assert_close(model(clip(), plan), expected, rtol=1e-12, atol=0)


def test_save_and_reload(tmp_path: Path) -> None:
    model = ours()
    save_published(model, tmp_path / "checkpoint-0.pth", epoch=0)
    theirs, other = published(), ours(seed=5)
    for reader in (theirs, other):
        load_weights(reader, load_published(tmp_path / "checkpoint-0.pth"))
        torch.testing.assert_close(reader.state_dict(), model.state_dict(), rtol=0, atol=0)
    plan = make_masks(torch.arange(2), CONFIG.grid, mask_ratio=0.7)
    assert torch.equal(other(clip(), plan), model(clip(), plan))


def test_compiled_model_saves_plain_names(tmp_path: Path) -> None:
    model = ours()
    save_published(torch.compile(model), tmp_path / "c.pth")
    assert load_published(tmp_path / "c.pth").keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "change, messages",
    [
        (dict(decoder_dim=32), ["mask_token is (1, 1, 16) in the checkpoint, (1, 1, 32) in the model"]),
        (dict(decoder_depth=3), ["missing: decoder.blocks.2.attn.proj.bias", "(13 in all)"]),
        (dict(encoder_depth=2), ["unexpected: encoder.blocks.2.attn.proj.bias", "(13 in all)"]),
        (dict(patch_size=16), ["encoder.patch_embed.proj.weight is (24, 3, 2, 8, 8)", "decoder.head.bias is (384,)"]),
    ],
    ids=str,
)
def test_checkpoint_of_another_size(change: dict[str, Any], messages: list[str]) -> None:
    model = ours(replace(CONFIG, **change))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, published().state_dict())
    for message in ("VideoMAEForPretraining", *messages):
        assert re.search(re.escape(message), str(caught.value)), str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_weights_fit_any_clip_length_and_resolution() -> None:
    """A checkpoint has no position tables."""
    load_weights(ours(replace(CONFIG, num_frames=8, image_size=(16, 40))), published().state_dict())


def hugging_face() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        norm_pix_loss=True,
    )
    model = transformers.VideoMAEForPreTraining(config)
    model.decoder.norm.eps = 1e-6  # transformers leaves PyTorch's default here
    model = randomised(model, 4)
    model.videomae.embeddings.position_embeddings = sinusoid_table(CONFIG.num_tokens, 24, torch.float64)
    model.position_embeddings = sinusoid_table(CONFIG.num_tokens, 16, torch.float64)
    return model


def assert_same_model(model: VideoMAEForPretraining, hf: Any) -> None:
    """Logits, loss and the gradient of the mask token, with random masks and no decoder mask."""
    plan = make_masks(torch.arange(2), CONFIG.grid, mask="random", mask_ratio=0.6, decoder_mask="none")
    predictions, loss = model.predict(clip(), plan), model(clip(), plan)
    out = hf(clip().transpose(1, 2), bool_masked_pos=bool_masks(plan)[0])
    torch.testing.assert_close(predictions, out.logits, rtol=0, atol=1e-11)
    torch.testing.assert_close(loss, out.loss, rtol=1e-11, atol=0)
    gradients = [torch.autograd.grad(value, m.mask_token)[0] for value, m in ((loss, model), (out.loss, hf))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_hugging_face_weights() -> None:
    hf, model = hugging_face(), ours()
    load_weights(model, from_huggingface(hf.state_dict()))
    assert_same_model(model, hf)


def test_weights_to_hugging_face() -> None:
    hf, model = hugging_face(), ours()
    converted = to_huggingface(model.state_dict(), "qv")
    if converted.keys() != hf.state_dict().keys():
        pytest.skip("the installed transformers has another bias layout")
    hf.load_state_dict(converted, strict=True)
    assert_same_model(model, hf)
