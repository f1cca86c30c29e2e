"""InternVideo2's student and classifier against the plain published implementation in float64: losses, every gradient.

The published code selects rows of normalised features of all tokens by a boolean mask; ours gets the raw rows.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.baselines.internvideo2 import (
    PublishedInternVideo2,
    PublishedInternVideo2Classifier,
    alignment_losses,
    attention_mask,
    kept_targets,
    position_table,
)
from benchmarks.baselines.internvideo2.teachers import unit
from videomae_fast.models import (
    AlignmentHeads,
    AlignmentLosses,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2ForClassification,
    TeacherRows,
)
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD

CONFIG = InternVideo2Config(
    48, 3, 3, mlp_ratio=2.7, pool_heads=4, clip_embed_dim=20, layer_scale=0.3, patch_size=8, num_frames=4,
    image_size=(16, 24),
)  # fmt: skip
HEADS = AlignmentHeads((1, 2), image_dim=24, pooled_dim=18, video_layers=(0, 2), video_dim=36)
# What adds the same to all keys changes no attention: their gradients are 0, to rounding.
WITHOUT_EFFECT = ("clip_projector.norm1_k.bias", "clip_projector.cross_attn.k_bias")
BATCH, RATIO = 3, 0.6
VISIBLE = 4 * (6 - 3)  # of 24 tokens

Layers = tuple[Tensor | None, Tensor | None, Tensor | None]


def with_values(model: nn.Module) -> nn.Module:
    """Float64 weights that hide no mistake: norms and biases are not 1 and 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def frames() -> Tensor:
    """(B, T, H, W, C) uint8."""
    return torch.randint(0, 256, (BATCH, 4, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normalised(raw: Tensor) -> Tensor:
    """uint8 (B, T, H, W, C) as the published model takes it."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((raw.double() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


class Features:
    """Raw features of all tokens, as teachers compute them, and masks (B·M, 1 + N) of the clips."""

    def __init__(self, heads: AlignmentHeads, cls: bool, masks_per_clip: int = 1) -> None:
        torch.manual_seed(7)
        rows, wide = BATCH, torch.float64
        self.cls, self.masks = cls, masks_per_clip
        self.image = torch.randn(len(heads.image_layers), rows, 25 if cls else 24, heads.image_dim, dtype=wide)
        self.video = torch.randn(len(heads.video_layers), rows, 24, heads.video_dim, dtype=wide)
        self.pooled = None if heads.pooled_dim is None else torch.randn(rows, heads.pooled_dim, dtype=wide)
        weights = torch.rand(rows, masks_per_clip, 4, 6)
        self.hidden = attention_mask(weights.flatten(0, 2), RATIO, rows * masks_per_clip)

    @property
    def visible(self) -> Tensor:
        """(B·M, K) ascending."""
        return (~self.hidden[:, 1:]).nonzero()[:, 1].view(-1, VISIBLE)

    def rows(self) -> tuple[TeacherRows | None, TeacherRows | None]:
        """What our model takes: raw rows, the M masks of a clip one after the other."""
        hidden = self.hidden if self.cls else self.hidden[:, 1:]
        image = self._raw(self.image, hidden) if len(self.image) or self.pooled is not None else None
        video = self._raw(self.video, self.hidden[:, 1:]) if len(self.video) else None
        return image and replace(image, pooled=self.pooled), video

    def _raw(self, features: Tensor, hidden: Tensor) -> TeacherRows:
        layers = features.repeat_interleave(self.masks, 1).split(1)  # none at all cannot be stacked
        return TeacherRows(tuple(kept_targets(layer, hidden)[0] for layer in layers if len(layer)))

    def published_losses(self, outputs: Layers) -> list[Tensor]:
        """Normalised, then selected."""
        image, pooled, video = outputs
        found = []
        if image is not None:
            features = unit(self.image).repeat_interleave(self.masks, 1)
            targets = kept_targets(features, self.hidden if self.cls else self.hidden[:, 1:])
            found.append(alignment_losses(image[:, :, -targets.shape[2] :], targets))
        if pooled is not None and self.pooled is not None:
            found.append(alignment_losses(pooled[None], unit(self.pooled).repeat_interleave(self.masks, 0)[None]))
        if video is not None:
            targets = kept_targets(unit(self.video).repeat_interleave(self.masks, 1), self.hidden[:, 1:])
            found.append(alignment_losses(video, targets))
        return found


def as_list(losses: AlignmentLosses) -> list[Tensor]:
    return [part.reshape(-1) for part in (losses.image, losses.pooled, losses.video) if part is not None]


def gradients(losses: list[Tensor], model: nn.Module) -> dict[str, Tensor | None]:
    """Of a sum in which every layer has a factor of its own."""
    together = torch.cat(losses)
    total = (together * torch.arange(1, len(together) + 1)).sum()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def pair(config: InternVideo2Config, heads: AlignmentHeads) -> tuple[InternVideo2ForAlignment, PublishedInternVideo2]:
    """Our model and the published one with the same float64 weights; the published one always has a pool."""
    torch.manual_seed(0)
    ours = InternVideo2ForAlignment(config, heads)
    with_values(ours)
    theirs = PublishedInternVideo2.from_config(config, heads).double()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and (heads.pooled_dim is None or not missing)
    assert all(name.startswith("clip_projector.") for name in missing)
    back = ours.load_state_dict(theirs.state_dict(), strict=False)  # published names, ours, and back
    assert not back.missing_keys and set(back.unexpected_keys) == set(missing)
    return ours, theirs


def assert_same_gradients(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> None:
    assert not {name for name, gradient in theirs.items() if gradient is not None} - ours.keys()
    for name, mine in ours.items():
        wanted = theirs[name]
        assert mine is not None and wanted is not None, name
        if name in WITHOUT_EFFECT:
            assert max(mine.abs().max(), wanted.abs().max()) < 1e-13, name
            continue
        assert wanted.abs().max() > 0, f"{name} has nothing to compare"
        assert (mine - wanted).norm() <= 1e-10 * wanted.norm(), name


def assert_exact(config: InternVideo2Config, heads: AlignmentHeads, cls: bool = True, masks_per_clip: int = 1) -> None:
    """Each layer's loss and every gradient agree to float64 rounding."""
    ours, theirs = pair(config, heads)
    features, generator = Features(heads, cls, masks_per_clip), torch.Generator().manual_seed(3)
    shape = BATCH, 3, config.num_frames, *config.image_size
    clip = torch.randn(shape, dtype=torch.float64, generator=generator)
    mine = as_list(ours(clip, features.visible, *features.rows()))
    wanted = features.published_losses(theirs(clip.repeat_interleave(masks_per_clip, 0), features.hidden))
    assert [len(part) for part in mine] == [len(part) for part in wanted]
    torch.testing.assert_close(torch.cat(mine), torch.cat(wanted), rtol=1e-10, atol=0)
    assert_same_gradients(gradients(mine, ours), gradients(wanted, theirs))


@pytest.mark.parametrize("cls", [True, False], ids=["cls", "no cls"])
@pytest.mark.parametrize("mlp", [False, True], ids=["linear", "mlp"])
def test_losses_and_gradients(mlp: bool, cls: bool) -> None:
    assert_exact(CONFIG, replace(HEADS, image_mlp=mlp), cls)


@pytest.mark.parametrize(
    "heads",
    [
        replace(HEADS, image_layers=()),
        replace(HEADS, video_layers=()),
        replace(HEADS, video_layers=(1, 2), pooled_dim=None),
        AlignmentHeads((), pooled_dim=18),
    ],
    ids=["no image layers", "no video layers", "nothing pooled", "pooled alone"],
)
def test_some_heads_alone(heads: AlignmentHeads) -> None:
    assert_exact(CONFIG, heads)


def test_nothing_reads_the_last_cls_row() -> None:
    """Then the cls token of the last block is never computed, and its gradient is that of the blocks before."""
    assert_exact(CONFIG, replace(HEADS, pooled_dim=None), cls=False)


@pytest.mark.parametrize("masks_per_clip", [2, 3])
def test_masks_of_a_clip(masks_per_clip: int) -> None:
    """M masks of a clip are M published clips: the mean over them."""
    assert_exact(CONFIG, HEADS, masks_per_clip=masks_per_clip)


@pytest.mark.parametrize(
    "change",
    [
        dict(recompute="never"),
        dict(activation_checkpointing=True),
        dict(elementwise="torch"),
        dict(tubelet_size=2, num_frames=8),
    ],
    ids=str,
)
def test_other_models(change: dict[str, object]) -> None:
    assert_exact(replace(CONFIG, **change), HEADS)


def test_bytes_are_the_normalised_clip() -> None:
    """To the rounding of the float32 statistics of the channels."""
    ours, theirs = pair(CONFIG, HEADS)
    features = Features(HEADS, True)
    mine = as_list(ours(frames(), features.visible, *features.rows(), layout="BTHWC"))
    wanted = features.published_losses(theirs(normalised(frames()), features.hidden))
    torch.testing.assert_close(torch.cat(mine), torch.cat(wanted).to(mine[0].dtype), rtol=1e-5, atol=1e-6)


def test_positions_begin_as_published() -> None:
    model = InternVideo2ForAlignment(CONFIG, HEADS)
    table = position_table(CONFIG.grid, CONFIG.encoder_dim, cls_token=True)
    for name, wanted in (("pos_embed", table), ("clip_pos_embed", table), ("mae_pos_embed", table[:, 1:])):
        found = model.get_parameter(name).detach().double()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("change", [dict(), dict(activation_checkpointing=True), dict(recompute="never")], ids=str)
def test_classifier(change: dict[str, object]) -> None:
    config = replace(CONFIG, **change)
    torch.manual_seed(0)
    ours = InternVideo2ForClassification(config, 7, init_scale=1.0)
    with_values(ours)
    theirs = PublishedInternVideo2Classifier.from_config(config, 7).double()
    theirs.load_state_dict(ours.state_dict())
    clip = normalised(frames())
    mine, wanted = (model(clip) for model in (ours, theirs))
    torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.features(clip), theirs.forward_features(clip), rtol=1e-10, atol=1e-12)
    labels = torch.arange(BATCH)
    of_ours, of_theirs = (
        gradients([F.cross_entropy(logits, labels)[None]], model) for logits, model in ((mine, ours), (wanted, theirs))
    )
    assert_same_gradients(of_ours, of_theirs)
