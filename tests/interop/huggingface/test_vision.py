"""Vision models of transformers as guides: their own attentions and hidden states are the truth."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness.counts import count
from videomae_fast.interop.huggingface.vision import HuggingFaceGuide
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD
from videomae_kernels import crop_clips

transformers = pytest.importorskip("transformers")

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=8)
MLP = dict(intermediate_size=48)
MODELS: dict[str, tuple[str, dict[str, int], int]] = {  # configuration, its further sizes, rows that are no tokens
    "ViTModel": ("ViTConfig", MLP, 1),
    "DeiTModel": ("DeiTConfig", MLP, 2),
    "Dinov2Model": ("Dinov2Config", {}, 1),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {}, 5),
    "CLIPVisionModel": ("CLIPVisionConfig", MLP, 1),
    "SiglipVisionModel": ("SiglipVisionConfig", MLP, 0),
}
MASKS = torch.tensor([[0, 5, 6], [5, 7, 11], [1, 2, 3], [1, 9, 10]])  # two of each of two clips
STATS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    config, more, _ = MODELS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**SIZES, **more)).double().eval()
    for parameter in model.parameters():  # away from their initial 0 and 1, and attention from uniform
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def make_guide(model: nn.Module, **options: Any) -> HuggingFaceGuide:
    options = dict(layers=(0, 2), num_frames=4, image_size=(16, 16), dtype=torch.float64) | options
    return HuggingFaceGuide(model, **options)


def make_clip(width: int = 16) -> Tensor:
    return torch.randint(0, 256, (2, 3, 4, 16, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(clip: Tensor, stats: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in stats)
    return (clip / 255.0 - mean) / std


def asked(model: nn.Module, clip: Tensor, **options: Any) -> Any:
    """What transformers returns when it is asked for everything."""
    model.set_attn_implementation("eager")
    frames = clip.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        return model(pixel_values=frames, output_attentions=True, output_hidden_states=True, **options)


def at_masks(frames: Tensor, prefix: int) -> Tensor:
    x = frames.unflatten(0, (2, 4))
    tokens = x[:, :, prefix:].flatten(1, 2)
    tokens = torch.stack([tokens[row // 2, listed] for row, listed in enumerate(MASKS)])
    cls = x[:, :, 0].mean(1).repeat_interleave(2, 0)[:, None]
    return torch.cat([cls, tokens], 1) if prefix else tokens


@pytest.mark.parametrize("name", MODELS)
def test_guide_is_what_transformers_returns(name: str) -> None:
    model, clip, prefix = make_model(name), make_clip(), MODELS[name][2]
    expected = asked(copy.deepcopy(model), normalised(clip, STATS))
    guide = make_guide(model, pixel_stats=STATS)
    assert (guide.grid, guide.dim, guide.has_cls, guide.pooled_dim) == ((4, 2, 2), 32, prefix > 0, 32)
    seen = guide.observe(clip)
    attention = expected.attentions[-1].mean(1)
    attention = attention[:, 0, prefix:] if prefix else attention.mean(1)
    torch.testing.assert_close(seen.attention, attention.reshape(2, 4, 2, 2), rtol=1e-5, atol=1e-7)
    rows = seen.rows(MASKS)
    torch.testing.assert_close(rows.pooled, expected.pooler_output.view(2, 4, -1).mean(1), rtol=1e-5, atol=1e-6)
    for number, layer in zip((0, 2), rows.layers, strict=True):
        assert layer.shape == (4, 3 + (prefix > 0), 32)
        wanted = at_masks(expected.hidden_states[number + 1], prefix)
        torch.testing.assert_close(layer, wanted, rtol=1e-5, atol=1e-6)
    for parameter in model.parameters():
        assert not parameter.requires_grad


def test_the_last_layer_is_the_residual_sum_before_the_norm() -> None:
    model, clip = make_model("ViTModel"), make_clip()
    seen = make_guide(model, layers=(2,), pixel_stats=STATS).observe(clip)
    last = asked(model, normalised(clip, STATS)).last_hidden_state
    torch.testing.assert_close(model.layernorm(seen.layers[0]), last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model", "CLIPVisionModel", "SiglipVisionModel"])
def test_other_sizes_are_those_the_model_can_interpolate(name: str) -> None:
    model, clip = make_model(name), make_clip(24)
    options = {} if name == "Dinov2Model" else {"interpolate_pos_encoding": True}
    expected = asked(copy.deepcopy(model), normalised(clip, STATS), **options)
    guide = make_guide(model, image_size=(16, 24), pixel_stats=STATS)
    assert guide.grid == (4, 2, 3)
    layer = guide.observe(clip).rows(MASKS).layers[0]
    torch.testing.assert_close(layer, at_masks(expected.hidden_states[1], MODELS[name][2]), rtol=1e-5, atol=1e-6)


def test_every_clip_gets_the_normalisation_of_the_model() -> None:
    """uint8, cropped, and normalised with ImageNet's numbers as this library's models take clips."""
    guide, clip = make_guide(make_model("ViTModel"), pixel_stats=STATS), make_clip()
    floating = normalised(clip, (IMAGENET_MEAN, IMAGENET_STD))
    frames = clip.permute(0, 2, 3, 4, 1)
    crops = crop_clips(list(frames), [0, 1], [(0, 0, 16, 16)] * 2, [False, False], (16, 16))
    expected = guide.observe(clip)
    for other in (guide.observe(floating), guide.observe(frames, "BTHWC"), guide.observe(crops)):
        torch.testing.assert_close(other.attention, expected.attention, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(other.layers[1], expected.layers[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name: str) -> None:
    model, clip = make_model(name), make_clip()
    expected = make_guide(copy.deepcopy(model)).observe(clip)
    guide = make_guide(model.float(), dtype=torch.bfloat16)
    linears = [m for m in guide.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert linears and all(module.weight.dtype == torch.bfloat16 for module in linears)
    seen = guide.observe(clip)
    assert seen.attention.dtype == torch.float32 and all(layer.dtype == torch.bfloat16 for layer in seen.layers)
    assert not any(tensor.requires_grad for tensor in (seen.attention, *seen.layers))
    torch.testing.assert_close(seen.attention.double(), expected.attention, rtol=0.2, atol=0.02)
    error = (seen.layers[1].double() - expected.layers[1]).norm() / expected.layers[1].norm()
    assert error < 0.05


def test_no_block_makes_a_square_matrix_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the row of the cls token: softmax is taken of (F, heads, 1, S)."""
    guide, shapes = make_guide(make_model("Dinov2WithRegistersModel")), []
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda x, *args, **kw: (shapes.append(x.shape), softmax(x, *args, **kw))[1])
    guide.observe(make_clip())
    assert [tuple(shape) for shape in shapes] == [(8, 4, 1, 9)]
    assert not any("_videomae_fast_seen" in module.__dict__ for module in guide.model.modules())
    assert not any(block._forward_hooks for block in guide.blocks)


@pytest.mark.parametrize("name", ["ViTModel", "SiglipVisionModel"])
def test_no_host_sync(name: str) -> None:
    guide, clip = make_guide(make_model(name).float(), dtype=torch.float32, pixel_stats=STATS), make_clip()
    for pixels in (clip, normalised(clip, STATS).float()):
        assert count(lambda pixels=pixels: guide.observe(pixels).rows(MASKS), clip.device).syncs == 0


def test_without_its_pooled_row() -> None:
    guide = make_guide(make_model("ViTModel"), pooled=False)
    assert guide.pooled_dim is None and guide.observe(make_clip()).rows(MASKS).pooled is None


def test_errors_name_what_came() -> None:
    with pytest.raises(ValueError, match="image_size \\(16, 20\\) must be multiples of the \\(8, 8\\) pixels of HF"):
        make_guide(make_model("ViTModel"), image_size=(16, 20), name="HF")
    with pytest.raises(ValueError, match="layers must be below 3, the blocks of teacher HF, got \\(3,\\)"):
        make_guide(make_model("ViTModel"), layers=(3,), name="HF")
    config = transformers.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)
    with pytest.raises(ValueError, match="teacher HF \\(ResNetModel\\) has no list of None blocks"):
        make_guide(transformers.ResNetModel(config), name="HF")
    guide = make_guide(make_model("ViTModel"), name="HF")
    with pytest.raises(ValueError, match="clip must have T=4 as the model was built for"):
        guide.observe(make_clip()[:, :, :2])
    with pytest.raises(ValueError, match="layout must be a permutation of 'BCTHW'"):
        guide.observe(make_clip(), "BTHW")
    with pytest.raises(TypeError, match="clip must be uint8 or floating, got torch\\.int16"):
        guide.observe(make_clip().to(torch.int16))
    config = transformers.BeitConfig(**SIZES, **MLP, use_relative_position_bias=True)
    with pytest.raises(ValueError, match="attention of teacher HF \\(BeitModel\\) cannot be seen"):
        make_guide(transformers.BeitModel(config).double(), name="HF")
