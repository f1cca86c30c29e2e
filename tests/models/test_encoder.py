"""The encoder: its visible tokens and its positions."""

import copy

import torch
from torch import nn

from tests.models.test_layers import randomise
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.positions import sinusoid_table

TINY = VideoMAEConfig(24, 2, 2, 16, 2, num_frames=4, image_size=(16, 16), patch_size=8)


def test_encoder_sees_visible_tokens_only() -> None:
    """Pixels of hidden tokens change nothing, not even when they are not numbers; order of tokens is kept."""
    encoder = randomise(Encoder(TINY)).float()
    visible = torch.tensor([[0, 5, 6]])
    clip = torch.randn(1, 3, 4, 16, 16)
    spoiled = torch.full_like(clip, float("nan"))
    for token in visible[0].tolist():
        t, h, w = token // 4, token // 2 % 2, token % 2
        part = (..., slice(2 * t, 2 * t + 2), slice(8 * h, 8 * h + 8), slice(8 * w, 8 * w + 8))
        spoiled[part] = clip[part]
    features = encoder(clip, visible)
    assert features.shape == (1, 3, 24)
    assert torch.equal(encoder(spoiled, visible), features)
    torch.testing.assert_close(encoder(clip, visible.flip(1)), features.flip(1), rtol=1e-5, atol=1e-6)


def test_encoder_accepts_int32_and_learnable_positions() -> None:
    config = VideoMAEConfig(24, 1, 2, 16, 2, num_frames=4, image_size=(16, 16), patch_size=8)
    encoder = Encoder(config)
    visible, clip = torch.tensor([[1, 2]]), torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(encoder(clip, visible.int()), encoder(clip, visible))
    learnable = copy.deepcopy(encoder)
    table = nn.Parameter(learnable.position.clone())
    del learnable.position
    learnable.position = table
    learnable(clip, visible).square().sum().backward()
    assert table.grad is not None and (table.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [1, 2]


def test_position_tables_are_filled_when_a_model_gets_its_memory() -> None:
    """A model that was built without memory: no checkpoint has its tables, and its weights may come from anywhere."""
    with torch.device("meta"):
        model = VideoMAEForPretraining(TINY)
    assert model.position.is_meta and model.encoder.position.is_meta
    model.to_empty(device="cpu")
    for table, width in ((model.position, TINY.decoder_dim), (model.encoder.position, TINY.encoder_dim)):
        assert torch.equal(table, sinusoid_table(TINY.num_tokens, width))


def test_positions_that_were_set_stay() -> None:
    model = VideoMAEForPretraining(TINY)
    model.encoder.position.fill_(3)
    model.double().float()
    assert (model.encoder.position == 3).all()
    model.encoder.init_positions()
    assert torch.equal(model.encoder.position, sinusoid_table(TINY.num_tokens, TINY.encoder_dim))


def test_the_patch_embedding_calls_its_module() -> None:
    """Hooks act and parametrised weights are used, although no convolution runs."""
    encoder = Encoder(TINY)
    visible, clip = torch.tensor([[1, 2]]), torch.randn(1, 3, 4, 16, 16)
    shapes: list[torch.Size] = []
    encoder.patch_embed.proj.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    expected = encoder(clip, visible)
    assert shapes == [(1, 2, 24)]

    class Negative(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return -weight

    nn.utils.parametrize.register_parametrization(encoder.patch_embed.proj, "weight", Negative())
    assert (encoder(clip, visible) - expected).abs().max() > 1e-2
    assert torch.allclose(encoder(-clip, visible), expected, rtol=1e-5, atol=1e-6)
