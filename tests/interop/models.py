"""What the tests of `fuse` share: a small Hugging Face model, clips and masks, and comparisons."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from videomae_fast import MaskPlan, make_masks

GRID, PATCH = (4, 4, 4), (2, 8, 8)
TOKENS = 64
SIZES = dict(
    image_size=32,
    patch_size=8,
    num_frames=8,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=48,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=32,
)


def hugging_face(**changes: Any) -> Any:
    """A VideoMAEForPreTraining whose parameters are all different from zero and one."""
    import transformers

    torch.manual_seed(0)
    model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**(SIZES | changes)))
    return disturb(model)


def disturb(model: nn.Module) -> nn.Module:
    """Add noise to every parameter, so that a swap or a loss of any shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def clip(channels: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    """(B, T, C, H, W), as Hugging Face's models take it."""
    return torch.randn(batch, 8, channels, 32, 32, generator=torch.Generator().manual_seed(seed))


def plan(batch: int = 2, first: int = 0, **options: Any) -> MaskPlan:
    """Dual masking of VideoMAE V2; `decoder_mask="none"` for V1's."""
    return make_masks(torch.arange(first, first + batch), GRID, mask_ratio=0.75, **options)


def as_bool(index: Tensor) -> Tensor:
    """(B, N) bool, False at the tokens listed."""
    return torch.ones(index.shape[0], TOKENS, dtype=torch.bool).scatter(1, index, False)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """All but those of keys' biases (transformers 5.5 to 5.16), which softmax makes zero: they are rounding alone."""
    named = ((name, p.grad) for name, p in model.named_parameters() if not name.endswith("key.bias"))
    found = {name: grad.clone() for name, grad in named if grad is not None}
    model.zero_grad()
    assert found
    return found


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Dicts and lists of tensors, by the error of each against its largest value: keys, shapes, dtypes must agree."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            assert_close(x, y, tolerance)
        return
    if ours is None or theirs is None:
        assert ours is theirs
        return
    assert ours.dtype == theirs.dtype
    scale = max(theirs.abs().max().item(), 1e-6)
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=tolerance)


def small(cls: Any, with_cp: bool = False) -> nn.Module:
    """A small model of this class, or of the real one, which takes the same arguments; for clips of 8x32x32."""
    torch.manual_seed(0)
    return cls(
        img_size=32,
        patch_size=8,
        encoder_embed_dim=24,
        encoder_depth=2,
        encoder_num_heads=3,
        decoder_num_classes=384,
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=2,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        all_frames=8,
        with_cp=with_cp,
    )
