"""The baseline's classifier against the rules of the publication: forward, init, drop path."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.baselines.published import PublishedClassifier, sinusoid_table
from videomae_fast import get_config

TINY = dict(image_size=(32, 48), num_frames=4, patch_size=8, encoder_dim=24, encoder_depth=2, encoder_heads=2)


def tiny(**changes) -> PublishedClassifier:
    torch.manual_seed(0)
    model = PublishedClassifier(5, **(TINY | changes))
    with torch.no_grad():  # biases start at zero: give them values, or a swapped bias would not show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def clip(batch=2):
    return torch.randn(batch, 3, 4, 32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_forward_written_out():
    model = tiny()
    patches = clip().unflatten(2, (2, 2)).unflatten(4, (4, 8)).unflatten(6, (6, 8)).permute(0, 2, 4, 6, 1, 3, 5, 7)
    proj = model.patch_embed.proj
    x = patches.flatten(4).flatten(1, 3) @ proj.weight.flatten(1).T + proj.bias + sinusoid_table(48, 24, torch.float64)
    for block in model.blocks:
        attn = block.attn
        q, k, v = (F.layer_norm(x, (24,), block.norm1.weight, block.norm1.bias, 1e-6) @ attn.qkv.weight.T).chunk(3, -1)
        q, k, v = (t.view(2, 48, 2, 12).transpose(1, 2) for t in (q + attn.q_bias, k, v + attn.v_bias))
        mixed = (q @ k.mT / 12**0.5).softmax(-1) @ v
        x = x + attn.proj(mixed.transpose(1, 2).reshape(x.shape))
        hidden = block.mlp.fc1(F.layer_norm(x, (24,), block.norm2.weight, block.norm2.bias, 1e-6))
        x = x + block.mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    mean = F.layer_norm(x.mean(1), (24,), model.fc_norm.weight, model.fc_norm.bias, 1e-6)
    torch.testing.assert_close(model(clip()), mean @ model.head.weight.T + model.head.bias, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("option", [dict(attention="sdpa"), dict(checkpointing=True)], ids=str)
def test_options_change_nothing(option):
    model, other = tiny(), tiny(**option)
    for left, right in ((model(clip()), other(clip())),):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        gradients = [
            torch.autograd.grad(out.square().sum(), list(m.parameters())) for out, m in ((left, model), (right, other))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


def test_drop_path():
    """Rates rise from 0; a dropped branch leaves the sample alone, a kept one is scaled; evaluation drops nothing."""
    model = tiny(drop_path=0.5)
    assert [block.rate for block in model.blocks] == [0, 0.5]
    block, x = model.blocks[1].train(), torch.randn(3, 48, 24, dtype=torch.float64)
    keep = torch.tensor([[True, False, False], [True, False, True]])
    first = x + 2 * block.attn(block.norm1(x))
    expected = torch.stack(
        [(first + 2 * block.mlp(block.norm2(first)))[0], x[1], (x + 2 * block.mlp(block.norm2(x)))[2]]
    )
    torch.testing.assert_close(block(x, keep), expected, rtol=1e-12, atol=1e-12)
    torch.manual_seed(0)
    untouched = (block(x.repeat(300, 1, 1)) == x.repeat(300, 1, 1)).flatten(1).all(1).double().mean()
    assert untouched == pytest.approx(0.25, abs=0.06)
    evaluated = model.eval()(clip())
    torch.testing.assert_close(evaluated, tiny().eval()(clip()), rtol=1e-13, atol=1e-13)


def test_initial_values():
    torch.manual_seed(0)
    model = PublishedClassifier(50, **(TINY | dict(encoder_dim=96)), init_scale=0.5)
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.06)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert not parameter.any(), name


def test_the_published_size():
    """The number of parameters in users' logs of ViT-B with 400 classes."""
    with torch.device("meta"):
        model = PublishedClassifier.from_config(get_config("base"), 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_534_800


def test_unknown_attention():
    with pytest.raises(ValueError, match="attention is 'flash'; allowed: 'eager', 'sdpa'"):
        PublishedClassifier(5, **TINY, attention="flash")
