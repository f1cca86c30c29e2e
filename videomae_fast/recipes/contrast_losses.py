"""The losses of contrastive pre-training, of all pairs of a batch, whose towers may have run part by part."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videomae_kernels import contrastive_loss

from ..models.dual_encoder import PairFeatures
from ..models.fusion import FusionOutput
from .contrast_config import ContrastConfig
from .contrast_part import Part
from .gradient_cache import PartGradient, part_gradients

FUSED = ("contrast", "matching", "words")  # with "sound_" before them, of sound and video


class ContrastLosses:
    """The losses of a run.

    Args:
        config: of the run.
        group: the processes whose pairs are compared; None: only this one's.

    Attributes:
        names: of the numbers that a call returns.
    """

    def __init__(self, config: ContrastConfig, group: Any) -> None:
        self.config, self.group = config, group
        self.fuses, self.hears = config.fusion.fusion_layers > 0, bool(config.audio.audio_model)
        sound = tuple(f"sound_{name}" for name in FUSED if self.hears)
        self.names = (*FUSED, *sound, "scale") if self.fuses else ("scale",)

    def __call__(self, found: FusionOutput, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch, or what a part contributes to it, and what it consists of.

        loss = contrast_weight · contrast + matching_weight · matching + words_weight · words

        With sound, each is the sum of that of the video and that of sound and video. Of a part without a hard negative,
        whose `pair_ids` are None, matching is 0.

        Args:
            found: what the model makes of the part.
            part: the part, as `share` returns it if the batch has several.

        Returns:
            The loss, and a scalar for each of `names`.
        """
        numbers = {"scale": found.pairs.scale * (len(part.numbers) / self.config.optimizer.samples)}
        if not self.fuses:
            return self._contrast(found.pairs, part, part.gradient), numbers
        loss, losses = self._weighed(found, part, part.gradient)
        if self.hears:
            sound = {name: torch.full_like(loss.detach(), torch.nan) for name in FUSED}  # of images: there is none
            if found.sound is not None:
                of_sound, sound = self._weighed(found.sound, part, part.sound_gradient)
                loss = loss + of_sound
            numbers |= {f"sound_{name}": value for name, value in sound.items()}
        return loss, numbers | losses

    def share(self, parts: Sequence[Part], found: Sequence[FusionOutput]) -> list[Part]:
        """Tell parts what each contributes to the contrastive loss of their batch.

        Args:
            parts: all of a batch.
            found: what the model makes of each, without a graph.

        Returns:
            The parts, with their gradients.
        """
        shares = self._shares(parts, [each.pairs for each in found])
        shared = [part._replace(gradient=share) for part, share in zip(parts, shares, strict=True)]
        if sounds := [each.sound.pairs for each in found if each.sound is not None]:
            shares = self._shares(parts, sounds)
            shared = [part._replace(sound_gradient=share) for part, share in zip(shared, shares, strict=True)]
        return shared

    def of_pairs(self, features: PairFeatures, video_id: Tensor, caption_id: Tensor, group: Any = None) -> Tensor:
        """The contrastive loss of features; pairs that share a video or a caption are positives.

        Args:
            features: of n pairs.
            video_id: (n,) int64.
            caption_id: (n,) int64.
            group: processes whose pairs are compared, too.

        Returns:
            A scalar.
        """
        ids = {"x_ids": video_id, "y_ids": caption_id}
        return contrastive_loss(*features, self.config.loss.loss, **ids, group=group)

    def _shares(self, parts: Sequence[Part], features: Sequence[PairFeatures]) -> list[PartGradient]:
        video_id, caption_id = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("video_id", "caption_id")
        )
        return part_gradients(features, lambda whole: self.of_pairs(whole, video_id, caption_id, self.group))[1]

    def _weighed(
        self, found: FusionOutput, part: Part, gradient: PartGradient | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert found.matching is not None and found.words is not None
        share, options = len(part.numbers) / self.config.optimizer.samples, self.config.fusion
        contrast = self._contrast(found.pairs, part, gradient)
        matching = found.matching * (0.0 if part.pair_ids is None else share)  # of no negative; with gradients for DDP
        words = found.words * share
        loss = options.contrast_weight * contrast + options.matching_weight * matching + options.words_weight * words
        return loss, {"contrast": contrast, "matching": matching, "words": words}

    def _contrast(self, pairs: PairFeatures, part: Part, gradient: PartGradient | None) -> Tensor:
        if gradient is not None:
            return gradient.apply(pairs)
        return self.of_pairs(pairs, part.video_id, part.caption_id, self.group)
