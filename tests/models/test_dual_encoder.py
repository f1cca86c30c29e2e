"""The dual encoder: features, learned scales and their limits, frozen towers, errors."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.test_layers import randomise
from tests.models.test_text_tower import IDS, MASK, bert
from tests.models.test_video_tower import CLIP, IMAGE, TINY, pixels, saved
from videomae_fast.models import TEMPERATURES, TextTower, VideoTextModel, VideoTransformer


def model(temperature: str = "clip", pool: str = "mean") -> VideoTextModel:
    found = randomise(VideoTextModel(VideoTransformer(TINY, pool=pool), TextTower(bert()), 12, temperature))
    assert isinstance(found, VideoTextModel)
    return found.eval()


@pytest.mark.parametrize("shape", [CLIP, IMAGE], ids=["clips", "images"])
@pytest.mark.parametrize("masked", [False, True])
def test_features_are_the_formula(shape: tuple[int, ...], masked: bool) -> None:
    dual, clip = model(), pixels(shape)
    visible = dual.vision_encoder.draw(torch.arange(2), 0.5, seed=1, image=shape == IMAGE) if masked else None
    found = dual(clip, IDS, MASK, visible)
    video = F.linear(dual.vision_encoder(clip, visible).pooled, dual.vision_proj.weight, dual.vision_proj.bias)
    text = F.linear(dual.text_encoder(IDS, MASK).pooled, dual.text_proj.weight, dual.text_proj.bias)
    torch.testing.assert_close(found.video, video / video.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found.text, text / text.norm(dim=1, keepdim=True))
    assert torch.equal(found.scale, dual.logit_scale.exp()) and found.bias is None
    cached = dual.project_video(dual.encode_video(clip, visible).pooled.detach())
    assert torch.equal(cached, found.video)
    assert torch.equal(dual.project_text(dual.encode_text(IDS, MASK).pooled), found.text)


def clip_formula(found: Any) -> Tensor:
    logits = found.scale * found.video @ found.text.mT
    return (F.cross_entropy(logits, torch.arange(2)) + F.cross_entropy(logits.mT, torch.arange(2))) / 2


def siglip_formula(found: Any) -> Tensor:
    logits = found.scale * found.video @ found.text.mT + (0 if found.bias is None else found.bias)
    return -F.logsigmoid(logits * (2 * torch.eye(2, dtype=logits.dtype) - 1)).sum(1).mean()


@pytest.mark.parametrize("name", TEMPERATURES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    dual = model(name, "attention")
    (siglip_formula if name == "siglip" else clip_formula)(dual(pixels(), IDS, MASK)).backward()
    for parameter_name, parameter in dual.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.startswith("vision_encoder.image_embed"):
            # Biases of keys cancel in softmax, and only rounding is left of their gradients.
            assert parameter.grad.abs().max() > 0 or ".key.bias" in parameter_name, parameter_name


def test_scales_and_limits_are_the_published_ones() -> None:
    expected = {"internvideo2": ("temp", 1 / 0.07, 2.0, 1000.0), "clip": ("logit_scale", 1 / 0.07, 0.0, 100.0)}
    expected["siglip"] = ("logit_scale", 10.0, 0.0, math.inf)
    for name, (parameter, start, low, high) in expected.items():
        dual = VideoTextModel(VideoTransformer(TINY), TextTower(bert()), 12, name)
        assert dual.scale().item() == pytest.approx(start) and parameter in dual.state_dict()
        assert ("logit_bias" in dual.state_dict()) == (name == "siglip")
        learned = getattr(dual, parameter)
        for value in (-200.0, 200.0):
            learned.data.fill_(value)
            dual.limit_temperature()
            largest = (value < 0) == (name == "internvideo2")
            assert dual.scale().item() == pytest.approx(high if largest else low, rel=1e-6)
        assert learned.requires_grad
    assert dual.logit_bias is not None and dual.logit_bias.item() == -10.0


def test_limits_leave_what_is_inside() -> None:
    dual = model("internvideo2")
    before = dual.temp.clone()
    dual.limit_temperature()
    assert torch.equal(dual.temp, before)


def test_features_are_normalised_in_float32() -> None:
    dual = VideoTextModel(VideoTransformer(TINY), TextTower(bert().float()), 12).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = dual(pixels().float(), IDS, MASK)
    assert found.video.dtype == found.text.dtype == torch.float32
    for features in found[:2]:
        assert (features.norm(dim=1) - 1).abs().max() < 1e-6
    half = dual.bfloat16()(pixels().bfloat16(), IDS, MASK)
    assert half.video.dtype == torch.float32 and (half.video.norm(dim=1) - 1).abs().max() < 1e-6


def test_a_frozen_text_tower_is_fixed() -> None:
    dual = VideoTextModel(VideoTransformer(TINY), TextTower(bert(hidden_dropout_prob=0.5)), 12).double()
    dual.freeze_text()
    dual.train()
    assert not dual.text_encoder.training and dual.vision_encoder.training
    kept, rows = saved(lambda: dual.project_text(dual.encode_text(IDS, MASK).pooled))
    assert kept == 0 and not rows.requires_grad
    assert torch.equal(rows, dual.project_text(dual.encode_text(IDS, MASK).pooled))
    clip_formula(dual(pixels(), IDS, MASK)).backward()
    trained = {name for name, parameter in dual.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith("text_") for name in trained) and "logit_scale" in trained


def test_a_frozen_video_tower_keeps_nothing() -> None:
    dual = model()
    dual.freeze_video()
    dual.train()
    kept, rows = saved(lambda: dual.encode_video(pixels()))
    assert kept == 0 and not rows.pooled.requires_grad
    clip_formula(dual(pixels(), IDS, MASK)).backward()
    assert dual.vision_proj.weight.grad is not None and dual.vision_encoder.norm.weight.grad is None


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: model("bert"), "temperature must be one of ('internvideo2', 'clip', 'siglip'), got 'bert'"),
    (lambda: VideoTextModel(VideoTransformer(TINY), TextTower(bert()), 0), "embed_dim must be positive, got 0"),
    (lambda: model()(pixels(), IDS[:1], MASK[:1]), "as many captions as clips, got 1 and 2"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
