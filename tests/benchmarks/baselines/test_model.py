"""The baseline against the rules of the publication: forward, init, target order, loss."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.baselines.published import PublishedVideoMAE, published_loss, published_target, sinusoid_table
from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD

TINY = dict(
    image_size=(32, 32),
    num_frames=8,
    patch_size=8,
    encoder_dim=24,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=12,
    decoder_depth=2,
    decoder_heads=2,
)
PATCH = (2, 8, 8)


def tiny(**changes) -> PublishedVideoMAE:
    torch.manual_seed(0)
    model = PublishedVideoMAE(**(TINY | changes))
    with torch.no_grad():  # biases start at zero: give them values, or a swapped bias would not show
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def tiny_inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(2, 3, 8, 32, 32, generator=generator, dtype=dtype)
    mask = torch.ones(2, 64, dtype=torch.bool)
    decode_mask = torch.ones(2, 64, dtype=torch.bool)
    for row in range(2):
        mask[row, torch.randperm(64, generator=generator)[:16]] = False
        decode_mask[row, torch.randperm(64, generator=generator)[:32]] = False
    return clip, mask, decode_mask


def test_initial_values():
    torch.manual_seed(0)
    model = PublishedVideoMAE(**(TINY | dict(encoder_dim=96, decoder_dim=48)))
    xavier = model.encoder.blocks[0].mlp.fc1.weight  # (384, 96)
    assert xavier.abs().max() <= (6 / (384 + 96)) ** 0.5
    assert xavier.std().item() == pytest.approx((2 / (384 + 96)) ** 0.5, rel=0.02)
    assert model.encoder_to_decoder.weight.abs().max() <= 96**-0.5  # PyTorch's default, half of Xavier's spread
    assert model.encoder_to_decoder.weight.std().item() == pytest.approx((3 * 96) ** -0.5, rel=0.05)
    assert model.encoder.patch_embed.proj.bias.std() > 0  # PyTorch's default, not zeroed
    assert 0 < model.mask_token.abs().max() <= 0.02
    zero = ("q_bias", "v_bias", "proj.bias", "fc1.bias", "fc2.bias", "head.bias", "norm.bias", "norm1.bias")
    for name, parameter in model.named_parameters():
        if name.endswith(zero) and "patch_embed" not in name:
            assert not parameter.any(), name


def test_sinusoid_table_is_the_formula():
    table = sinusoid_table(50, 10, torch.float64)
    for n, j in [(0, 0), (0, 1), (7, 4), (49, 9), (13, 3)]:
        angle = torch.tensor(n / 10000 ** (2 * (j // 2) / 10), dtype=torch.float64)
        expected = torch.cos(angle) if j % 2 else torch.sin(angle)
        assert table[0, n, j].item() == pytest.approx(expected.item(), abs=1e-14)
    assert torch.equal(sinusoid_table(50, 10), table.float())


def test_forward_against_a_second_formulation():
    """Written another way: one sample, index lists, per-head loops, Conv3d as a product of patches."""
    model = tiny().double()
    clip, mask, decode_mask = tiny_inputs(torch.float64)
    predictions = model(clip, mask, decode_mask)
    assert predictions.shape == (2, 32, 384)

    def attend(attn, x):
        d = x.shape[-1] // attn.heads
        q, k, v = (x @ w.T for w in attn.qkv.weight.chunk(3))
        q, v = q + attn.q_bias, v + attn.v_bias
        heads = [slice(h * d, (h + 1) * d) for h in range(attn.heads)]
        out = torch.cat([torch.softmax(q[:, s] @ k[:, s].T / d**0.5, -1) @ v[:, s] for s in heads], -1)
        return attn.proj(out)

    def run(part, x):
        for b in part.blocks:
            x = x + attend(b.attn, F.layer_norm(x, x.shape[-1:], b.norm1.weight, b.norm1.bias, 1e-6))
            h = F.layer_norm(x, x.shape[-1:], b.norm2.weight, b.norm2.bias, 1e-6) @ b.mlp.fc1.weight.T
            h = h + b.mlp.fc1.bias
            x = x + b.mlp.fc2(h * 0.5 * (1 + torch.erf(h / 2**0.5)))
        return F.layer_norm(x, x.shape[-1:], part.norm.weight, part.norm.bias, 1e-6)

    row = 1
    visible, decoded = (~mask[row]).nonzero()[:, 0], (~decode_mask[row]).nonzero()[:, 0]
    cut = clip[row].unfold(1, 2, 2).unfold(2, 8, 8).unfold(3, 8, 8)  # (C, T', H', W', tau, p, p)
    patches = cut.permute(1, 2, 3, 0, 4, 5, 6).reshape(64, -1)
    proj = model.encoder.patch_embed.proj
    x = (patches @ proj.weight.flatten(1).T + proj.bias)[visible] + sinusoid_table(64, 24, torch.float64)[0, visible]
    x = run(model.encoder, x) @ model.encoder_to_decoder.weight.T
    table = sinusoid_table(64, 12, torch.float64)[0]
    x = run(model.decoder, torch.cat([x + table[visible], model.mask_token[0] + table[decoded]]))
    expected = model.decoder.head(x[visible.numel() :])
    torch.testing.assert_close(predictions[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [dict(attention="sdpa"), dict(checkpointing=True)])
def test_sdpa_and_checkpointing_change_nothing(changes):
    inputs = tiny_inputs(torch.float64)
    model, other = tiny().double(), tiny(**changes).double()
    other.load_state_dict(model.state_dict())
    losses = [published_loss(m(*inputs), *inputs, PATCH) for m in (model, other)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-13)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None and a.grad.any(), name
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_target_order_and_normalisation():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 4, 16, 24, generator=generator, dtype=torch.float64)
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(1, 3, 1, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1, 1)
    clip = (pixels - mean) / std
    raw = published_target(clip, (2, 8, 8), normalize_target=False)
    normalised = published_target(clip, (2, 8, 8))
    assert raw.shape == normalised.shape == (1, 12, 384)
    for t, h, w, p0, p1, p2, c in [(0, 0, 0, 0, 0, 0, 1), (1, 1, 2, 1, 5, 3, 2), (0, 1, 0, 1, 7, 6, 0)]:
        token, value = (t * 2 + h) * 3 + w, ((p0 * 8 + p1) * 8 + p2) * 3 + c
        pixel = pixels[0, c, 2 * t + p0, 8 * h + p1, 8 * w + p2]
        torch.testing.assert_close(raw[0, token, value], pixel, rtol=0, atol=1e-14)
        patch = pixels[0, c, 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
        deviation = (((patch - patch.mean()) ** 2).sum() / 127).sqrt()
        expected = (pixel - patch.mean()) / (deviation + 1e-6)
        torch.testing.assert_close(normalised[0, token, value], expected, rtol=0, atol=1e-11)


def test_flat_token_is_zero_not_nan():
    target = published_target(torch.zeros(1, 3, 2, 8, 8), (2, 8, 8))
    assert target.isfinite().all() and target.abs().max() < 1


def test_loss_without_decoder_mask_is_plain_mse():
    clip, mask, _ = tiny_inputs(torch.float64)
    predictions = torch.randn(2, 48, 384, dtype=torch.float64)
    labels = published_target(clip, PATCH)[mask].reshape(2, 48, 384)
    loss = published_loss(predictions, clip, mask, ~mask, PATCH)
    torch.testing.assert_close(loss, F.mse_loss(predictions, labels), rtol=1e-12, atol=0)


def test_loss_ignores_rows_the_encoder_saw():
    clip, mask, decode_mask = tiny_inputs()
    predictions = torch.randn(2, 32, 384, requires_grad=True)
    loss = published_loss(predictions, clip, mask, decode_mask, PATCH)
    loss.backward()
    seen = ~mask[~decode_mask].reshape(2, 32)
    assert seen.any() and not seen.all()
    assert not predictions.grad[seen].any() and predictions.grad[~seen].all()
    target = published_target(clip, PATCH)[~decode_mask].reshape(2, 32, 384)
    expected = F.mse_loss(predictions[~seen], target[~seen])
    torch.testing.assert_close(loss, expected)


def test_errors():
    with pytest.raises(ValueError, match="attention is 'flash'"):
        tiny(attention="flash")
    clip, mask, decode_mask = tiny_inputs()
    with pytest.raises(ValueError, match=r"\(32, 24\).*\(32, 32\)"):
        tiny()(clip[..., :24], mask, decode_mask)
