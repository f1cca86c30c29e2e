"""Video towers: against formulas, for clips and images, hidden tokens, frozen prefixes, poolings, errors."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.test_internvideo2 import TINY as INTERNVIDEO2
from tests.models.test_layers import randomise, written_out
from videomae_fast import VideoMAEConfig
from videomae_fast.models import InternVideo2, InternVideo2Tower, VideoTower, VideoTransformer
from videomae_fast.models.norms import add_branch
from videomae_fast.models.stochastic_depth import stochastic_depth
from videomae_kernels import crop_clips

TINY = VideoMAEConfig(24, 3, 3, 12, 3, patch_size=8, num_frames=4, image_size=(16, 24))
CLIP, IMAGE = (2, 3, 4, 16, 24), (2, 3, 1, 16, 24)


def transformer(config: VideoMAEConfig = TINY, **options: Any) -> VideoTransformer:
    tower = randomise(VideoTransformer(config, **options))
    assert isinstance(tower, VideoTransformer)
    return tower


def internvideo2(**options: Any) -> InternVideo2Tower:
    tower = randomise(InternVideo2Tower(INTERNVIDEO2, **options))
    assert isinstance(tower, InternVideo2Tower)
    return tower


TOWERS: dict[str, Callable[[], VideoTower]] = {
    "mean": transformer,
    "attention": lambda: transformer(pool="attention"),
    "InternVideo2": internvideo2,
    "InternVideo2, mean": lambda: internvideo2(pool="mean"),
}
each_tower = pytest.mark.parametrize("name", TOWERS)


def pixels(shape: tuple[int, ...] = CLIP) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(shape, dtype=torch.float64)


def plain(tower: VideoTransformer, clip: Tensor, visible: Tensor) -> Tensor:
    """Embed everything, add positions, choose, and run the published blocks."""
    image = clip.shape[2] == 1
    conv: Any = tower.image_embed.proj if image else tower.patch_embed.proj
    table = tower.pos_embed[0].view(2, 6, -1).mean(0) if image else tower.pos_embed[0]
    x = F.conv3d(clip, conv.weight, conv.bias, stride=conv.stride).flatten(2).mT + table
    x = torch.stack([rows[index] for rows, index in zip(x, visible, strict=True)])
    for block in tower.blocks:
        x = written_out(block, x)  # type: ignore[arg-type]
    return F.layer_norm(x, x.shape[-1:], tower.norm.weight, tower.norm.bias, 1e-6)


@pytest.mark.parametrize("shape", [CLIP, IMAGE], ids=["clip", "image"])
def test_a_transformer_is_the_formula(shape: tuple[int, ...]) -> None:
    tower, clip = transformer(), pixels(shape)
    visible = tower.draw(torch.tensor([5, 9]), 0.5, seed=3, image=shape == IMAGE)
    assert visible.shape == (2, 3 if shape == IMAGE else 6)
    rows, expected = tower(clip, visible), plain(tower, clip, visible)
    torch.testing.assert_close(rows.tokens, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(rows.pooled, expected.mean(1), rtol=1e-10, atol=1e-12)


def test_an_image_has_a_kernel_and_a_frame_of_positions() -> None:
    tower = VideoTransformer(TINY).double()
    frame = pixels(IMAGE)
    every = torch.arange(6).expand(2, -1)
    tower.pos_embed.data.zero_()
    clip = frame.expand(-1, -1, 4, -1, -1)
    embedded = tower.patch_embed(clip, torch.arange(12).expand(2, -1), tower.pos_embed[0])
    image = tower.image_embed(frame, every, tower.pos_embed[0, :6])
    torch.testing.assert_close(embedded, image.repeat(1, 2, 1), rtol=1e-5, atol=1e-6)  # a still clip


def test_a_new_kernel_sees_what_changes_within_a_tubelet() -> None:
    """One that repeats over time would only see the mean of its frames."""
    kernel = VideoTransformer(TINY).patch_embed.proj.weight
    assert (kernel[:, :, 0] - kernel[:, :, 1]).std() > 1.3 * kernel.std()  # √2 if independent


@pytest.mark.parametrize("image", [False, True])
def test_internvideo2_is_the_encoder_of_the_first_stage(image: bool) -> None:
    tower = internvideo2()
    config = tower.image_config if image else tower.config
    encoder = InternVideo2(config).double()
    state = {name: tensor for name, tensor in tower.state_dict().items() if name != "img_pos_embed"}
    encoder.load_state_dict(state | ({"pos_embed": tower.img_pos_embed} if image else {}))
    clip = pixels((2, 3, config.num_frames, 16, 24))
    visible = tower.draw(torch.tensor([5, 9]), 0.5, seed=3, image=image)
    rows = tower(clip, visible)
    torch.testing.assert_close(rows.pooled, encoder.features(clip, visible))
    torch.testing.assert_close(rows.tokens[:, 1:], encoder.tokens(clip, visible))
    mean = internvideo2(pool="mean")
    mean.load_state_dict(tower.state_dict(), strict=False)
    torch.testing.assert_close(mean(clip, visible).pooled, rows.tokens[:, 1:].mean(1))


@each_tower
@pytest.mark.parametrize("shape", [CLIP, IMAGE], ids=["clip", "image"])
def test_no_masking_is_all_tokens(name: str, shape: tuple[int, ...]) -> None:
    tower, clip = TOWERS[name](), pixels(shape)
    visible = tower.draw(torch.tensor([5, 9]), 0.0, seed=3, image=shape == IMAGE)
    found, expected = tower(clip, visible), tower(clip)
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.pooled, expected.pooled)
    assert found.tokens.shape[2] == tower.token_dim and found.pooled.shape == (2, tower.feature_dim)


@each_tower
@pytest.mark.parametrize("shape", [CLIP, IMAGE], ids=["clip", "image"])
def test_hidden_pixels_are_not_read(name: str, shape: tuple[int, ...]) -> None:
    tower, clip = TOWERS[name](), pixels(shape)
    config = tower.image_config if shape == IMAGE else tower.config
    visible = tower.draw(torch.tensor([5, 9]), 0.6, seed=3, image=shape == IMAGE)
    expected = tower(clip, visible)
    hidden = torch.ones(2, config.num_tokens, dtype=torch.bool).scatter(1, visible, False)
    hidden = hidden.view(2, 1, *config.grid)
    for axis, size in zip((2, 3, 4), config.patch, strict=True):
        hidden = hidden.repeat_interleave(size, axis)
    assert torch.equal(tower(clip.masked_fill(hidden, torch.nan), visible).tokens, expected.tokens)


@each_tower
@pytest.mark.parametrize("frames", [4, 1])
def test_layouts_uint8_and_crops(name: str, frames: int) -> None:
    tower = TOWERS[name]()
    clip = torch.randint(0, 256, (2, 3, frames, 16, 24), dtype=torch.uint8)
    expected = tower(clip).pooled
    assert torch.equal(tower(clip.permute(0, 2, 3, 4, 1), None, "BTHWC").pooled, expected)
    sources = [each.permute(1, 2, 3, 0).contiguous() for each in clip]
    crops = crop_clips(sources, [0, 1], [(0, 0, 16, 24)] * 2, [False, False], (16, 24))
    torch.testing.assert_close(tower(crops).pooled, expected, rtol=1e-5, atol=1e-6)


def saved(call: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes of what a call keeps for backward, parameters left out, and its result."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and not (tensor._base is not None and tensor._base.is_leaf):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(kept.values()), result


@each_tower
def test_a_frozen_prefix_has_the_same_gradients_and_keeps_nothing(name: str) -> None:
    tower, clip = TOWERS[name](), pixels()
    visible = tower.draw(torch.tensor([5, 9]), 0.5, seed=3)
    whole, rows = saved(lambda: tower(clip, visible))
    weight = torch.randn_like(rows.pooled)
    (rows.pooled * weight).sum().backward()
    expected = {name: p.grad for name, p in tower.named_parameters()}
    tower.zero_grad()
    tower.freeze("last:1")
    assert tower.frozen_blocks() == 2
    part, frozen = saved(lambda: tower(clip, visible))
    assert torch.equal(frozen.pooled, rows.pooled)
    (frozen.pooled * weight).sum().backward()
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} <= {"blocks", *tower.head_parts}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"2"}
    for name, parameter in trained.items():
        assert expected[name] is not None and torch.equal(parameter.grad, expected[name]), name  # type: ignore[arg-type]
    assert all(p.grad is None for name, p in tower.named_parameters() if name not in trained)
    assert part < 0.6 * whole


def test_what_is_kept_does_not_grow_with_the_prefix() -> None:
    kept = []
    for depth in (1, 4):
        tower = transformer(replace(TINY, encoder_depth=depth))
        tower.freeze("last:1")
        kept.append(saved(lambda tower=tower: tower(pixels()))[0])
    assert kept[0] == kept[1] > 0
    tower.freeze("head")
    assert saved(lambda: tower(pixels()))[0] < kept[0] / 4
    tower.requires_grad_(False)
    assert saved(lambda: tower(pixels()))[0] == 0


def test_a_frozen_prefix_drops_no_branches() -> None:
    tower = VideoTransformer(replace(TINY, drop_path=0.9)).double()
    tower.freeze("last:1")
    assert [block.drop_path is None for block in tower.blocks] == [True, True, False]
    with stochastic_depth(sample=torch.tensor([5, 9]), seed=1, step=2):
        tower(pixels())


# Parameters that a batch of clips or of images has no use for.
UNUSED = {
    "mean": {CLIP: ("image_embed",), IMAGE: ("patch_embed",)},
    "attention": {CLIP: ("image_embed",), IMAGE: ("patch_embed",)},
    "InternVideo2": {CLIP: ("img_pos_embed",), IMAGE: ("pos_embed",)},
    "InternVideo2, mean": {CLIP: ("img_pos_embed",), IMAGE: ("pos_embed",)},
}


@each_tower
@pytest.mark.parametrize("shape", [CLIP, IMAGE], ids=["clip", "image"])
def test_every_parameter_gets_a_gradient(name: str, shape: tuple[int, ...]) -> None:
    """Of zeros where it is not used, so that DDP does not wait for it."""
    tower = TOWERS[name]()
    rows = tower(pixels(shape))
    (rows.pooled * torch.randn_like(rows.pooled)).sum().backward()
    for parameter_name, parameter in tower.named_parameters():
        assert parameter.grad is not None, parameter_name
        unused = parameter_name.startswith(UNUSED[name][shape])
        assert (parameter.grad.abs().max() == 0) == unused, parameter_name


def test_lora_in_a_frozen_block_is_trained() -> None:
    tower = transformer()
    tower.freeze("last:1")
    block: Any = tower.blocks[1]
    block.attn.proj.bias.requires_grad_(True)
    assert tower.frozen_blocks() == 1
    tower(pixels()).pooled.pow(2).sum().backward()
    assert block.attn.proj.bias.grad.abs().max() > 0


def test_internvideo2_of_longer_tokens_is_its_encoder() -> None:
    config = replace(INTERNVIDEO2, tubelet_size=2)
    tower, encoder, clip = InternVideo2Tower(config).double(), InternVideo2(config).double(), pixels()
    encoder.load_state_dict({name: t for name, t in tower.state_dict().items() if name != "img_pos_embed"})
    visible = torch.tensor([[0, 3, 7], [1, 2, 9]])
    rows = tower(clip, visible)
    torch.testing.assert_close(rows.tokens[:, 1:], encoder.tokens(clip, visible))
    torch.testing.assert_close(rows.pooled, encoder.features(clip, visible))


def test_positions_may_stay_as_they_are() -> None:
    tower = VideoTransformer(TINY, learn_positions=False)
    assert not tower.pos_embed.requires_grad and tower.frozen_blocks() is None
    tower.freeze("all")
    assert not tower.pos_embed.requires_grad and tower.patch_embed.proj.weight.requires_grad


def test_layers_are_those_of_fine_tuning() -> None:
    tower = VideoTransformer(TINY, pool="attention")
    layers = {name: tower.layer_id(name) for name, _ in tower.named_parameters()}
    assert {layers[name] for name in ("pos_embed", "image_embed.proj.bias", "patch_embed.proj.weight")} == {0}
    assert layers["blocks.2.norm1.weight"] == 3 and layers["norm.weight"] == 4
    assert layers["clip_projector.cross_attn.proj.bias"] == 4


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: transformer()(pixels((2, 3, 2, 16, 24))), ValueError, "clip must have T=4"),
    (lambda: transformer()(pixels((2, 3, 1, 16, 16))), ValueError, "clip must have W=24"),
    (lambda: transformer()(pixels(), None, "BCTH"), ValueError, "layout must be a permutation"),
    (lambda: transformer()(pixels(), torch.zeros(2, 0, dtype=torch.int64)), ValueError, "visible must be (2, K) with"),
    (lambda: transformer()(pixels(), torch.zeros(1, 2, dtype=torch.int64)), ValueError, "got (1, 2)"),
    (lambda: transformer().draw(torch.tensor([1]), 1.0, seed=0), ValueError, "ratio"),
    (lambda: transformer().draw(torch.tensor([1.0]), 0.5, seed=0), TypeError, "sample"),
    (lambda: VideoTransformer(TINY, pool="max"), ValueError, "pool must be one of ('mean', 'attention'), got 'max'"),
    (lambda: InternVideo2Tower(INTERNVIDEO2, pool="cls"), ValueError, "pool must be one of"),
    (
        lambda: InternVideo2Tower(replace(INTERNVIDEO2, tubelet_size=2))(pixels((2, 3, 1, 16, 24)).float()),
        ValueError,
        "images need tubelet_size 1, because they share the kernel of the patches with clips, got 2",
    ),
    (lambda: replace(TINY, image_size=(16, 20)), ValueError, "must be multiples of tubelet_size 2 and patch_size 8"),
    (lambda: transformer().freeze("last:4"), ValueError, "train must be 'all', 'head' or 'last:K' with K from 1 to 3"),
    (lambda: transformer().layer_id("other"), ValueError, "name is 'other'"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_a_block_of_the_formula_is_the_block() -> None:
    """The formula of this file is not the code that it checks."""
    tower, x = transformer(), torch.randn(2, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(written_out(tower.blocks[0], x), add_branch(*tower.blocks[0](x)))  # type: ignore[arg-type]
