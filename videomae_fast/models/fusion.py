"""InternVideo2's second stage: a dual encoder whose text model also reads the video, to match and to fill in words."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .bert import SplitBert
from .dual_encoder import PairFeatures, VideoTextModel, check_pairs
from .encoder import DIMENSIONS, Clip, init_small_linear
from .linear import Linear, linear
from .negatives import TEXT_STREAM, VIDEO_STREAM, hard_negatives
from .text_tower import TextRows
from .video_tower import VideoRows, VideoTower
from .word_masks import mask_words, mlm_loss

Gather = Callable[[Tensor], Tensor]  # rows of this process → rows of all processes, differentiable


class FusionOutput(NamedTuple):
    """What a step of the second stage adds up.

    Attributes:
        pairs: what `contrastive_loss` takes (VTC).
        matching: scalar float32, the loss of telling pairs from hard negatives (VTM); None of features alone.
        words: scalar float32, the loss of hidden words (MLM); None of features alone.
        sound: the same three where fusion layers read sound and video (AVTC, AVTM, AVMLM); None without sound.
    """

    pairs: PairFeatures
    matching: Tensor | None = None
    words: Tensor | None = None
    sound: "FusionOutput | None" = None


class Sight(NamedTuple):
    """What captions are compared with.

    Attributes:
        tokens: (B, S, D), what fusion layers attend to.
        feature: (B, E) float32, of length 1.
        head: tells pairs from others.
        streams: Philox streams of negative captions and of negative videos.
    """

    tokens: Tensor
    feature: Tensor
    head: Linear
    streams: tuple[int, int] = (TEXT_STREAM, VIDEO_STREAM)


class VideoTextFusionModel(VideoTextModel):
    """A dual encoder with fusion layers, and heads for matching and for masked words.

    Its state_dict has the names and shapes of the published checkpoints of stage 2 (without audio and without teachers'
    heads), but for the words' decoder, which is the word embedding.

    Args:
        vision_encoder: the video tower.
        text_encoder: the split text model, whose `source_dim` is the tower's `token_dim`.
        embed_dim: E.
        temperature: a key of TEMPERATURES; "internvideo2" as published.
        word_ratio: share of the caption's words that are hidden.

    Raises:
        ValueError: as `VideoTextModel`; `word_ratio` is not in (0, 1], or the text model has no fusion layer, or has
            them for tokens of another width.

    References:
        InternVideo2, arXiv 2403.15377, section 3.2; models/internvideo2_stage2_visual.py and criterions.py of
        OpenGVLab/InternVideo, InternVideo2/multi_modality.
    """

    text_encoder: SplitBert

    def __init__(
        self,
        vision_encoder: VideoTower,
        text_encoder: SplitBert,
        embed_dim: int = 512,
        temperature: str = "internvideo2",
        word_ratio: float = 0.5,
    ) -> None:
        if not 0 < word_ratio <= 1:
            raise ValueError(f"word_ratio must be in (0, 1], got {word_ratio}")
        if text_encoder.config.text_layers == text_encoder.config.depth:
            raise ValueError(
                f"text_layers is depth {text_encoder.config.depth}, which leaves no layer to fuse with a video"
            )
        self._check_source(vision_encoder, text_encoder)
        super().__init__(vision_encoder, text_encoder, embed_dim, temperature)
        self.word_ratio = word_ratio
        self.itm_head = Linear(text_encoder.dim, 2)
        self.itm_head.apply(init_small_linear)

    def forward(  # type: ignore[override]
        self,
        clip: Clip | None,
        ids: Tensor,
        mask: Tensor,
        sample: Tensor | None,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
        *,
        video: VideoRows | None = None,
        seed: int,
        pair_ids: Tensor | None = None,
        gather: Gather | None = None,
    ) -> FusionOutput:
        """Features for the contrastive loss, and the losses of matching and of words.

        Args:
            clip: as `VideoTower.forward` takes it.
            ids: (B, L) int64 token numbers; row i is the caption of clip i.
            mask: (B, L) bool or integer: 1 for tokens, 0 for padding.
            sample: (B,) int64 sample numbers; hidden words and negatives are drawn by them. None: the features alone.
            visible: (B, K) int32 or int64 tokens of the clips; None: all.
            layout: a permutation of "BCTHW".
            video: as `VideoTextModel.forward` takes it.
            seed: of the run, in [0, 2⁶³).
            pair_ids: (B,) int64: pairs of equal ids are no negatives of each other. None: the sample numbers.
            gather: gives the rows of all processes, with gradients, so that negatives are drawn among them: each
                process then holds all their tokens, W·B·S rows. None: negatives are of this process, as published.

        Returns:
            The features and losses.

        Raises:
            ValueError: as `VideoTextModel.forward`; or, on a CPU, a pair has no negative.
            TypeError: as `VideoTextModel.forward`.
        """
        video = self.rows_of(clip, video, visible, layout)
        check_pairs(ids, video)
        return self.losses(video, ids, mask, sample, seed=seed, pair_ids=pair_ids, gather=gather)

    def losses(
        self,
        video: VideoRows,
        ids: Tensor,
        mask: Tensor,
        sample: Tensor | None,
        *,
        seed: int,
        pair_ids: Tensor | None = None,
        gather: Gather | None = None,
    ) -> FusionOutput:
        """As `forward`, from rows of the video tower, such as cached ones of a frozen tower."""
        (found,) = self._compare([self._sight(video)], ids, mask, sample, seed, pair_ids, gather)
        return found

    def match(self, text: TextRows, mask: Tensor, video: Tensor) -> Tensor:
        """Logits (B, 2) of "no pair" and "pair", of captions and the video tower's tokens (B, S, D)."""
        return self._match(text.tokens, mask, self._source(video), self.itm_head)

    def _check_source(self, vision_encoder: VideoTower, text_encoder: SplitBert) -> None:
        if text_encoder.source_dim != vision_encoder.token_dim:
            raise ValueError(
                f"source_dim of text_encoder must be {vision_encoder.token_dim}, the width of the video tower's "
                f"tokens, got {text_encoder.source_dim}"
            )

    def _sight(self, video: VideoRows) -> Sight:
        return Sight(self._source(video.tokens), self.project_video(video.pooled), self.itm_head)

    def _source(self, tokens: Tensor) -> Tensor:
        """What fusion layers attend to, of the video tower's tokens."""
        return tokens

    def _compare(
        self,
        sights: Sequence[Sight],
        ids: Tensor,
        mask: Tensor,
        sample: Tensor | None,
        seed: int,
        pair_ids: Tensor | None,
        gather: Gather | None,
    ) -> list[FusionOutput]:
        """The features and losses of the same captions with each of `sights`; the text layers run once for all."""
        text = self.encode_text(ids, mask)
        feature, scale = self.project_text(text.pooled), self.scale()
        found = [FusionOutput(PairFeatures(sight.feature, feature, scale, self.logit_bias)) for sight in sights]
        if sample is None:
            return found
        numbers, gather = sample if pair_ids is None else pair_ids, gather or _own
        matching = [
            self._matching(output.pairs, sight, text, mask, sample, seed, numbers, gather)
            for output, sight in zip(found, sights, strict=True)
        ]
        hidden, labels = self._hide_words(ids, mask, sample, seed)
        words = [
            mlm_loss(self.text_encoder.words(self.text_encoder.fuse(hidden, mask, sight.tokens)), labels)
            for sight in sights
        ]
        return [FusionOutput(*each) for each in zip((output.pairs for output in found), matching, words, strict=True)]

    def _match(self, tokens: Tensor, mask: Tensor, video: Tensor, head: Linear) -> Tensor:
        return linear(self.text_encoder.fuse(tokens, mask, video)[:, 0], head)

    def _matching(
        self,
        pairs: PairFeatures,
        sight: Sight,
        text: TextRows,
        mask: Tensor,
        sample: Tensor,
        seed: int,
        ids: Tensor,
        gather: Gather,
    ) -> Tensor:
        with torch.no_grad():
            similarity = [pairs.scale * (a @ gather(b).mT) for a, b in (pairs[:2], pairs[1::-1])]
            everyone = gather(ids)
            texts, videos = (
                hard_negatives(each, ids, everyone, sample, seed=seed, stream=stream)
                for each, stream in zip(similarity, sight.streams, strict=True)
            )
        tokens = torch.cat([text.tokens, text.tokens, gather(text.tokens)[texts]])
        masks = torch.cat([mask, mask, gather(mask)[texts]])
        clips = torch.cat([sight.tokens, gather(sight.tokens)[videos], sight.tokens])
        return vtm_loss(self._match(tokens, masks, clips, sight.head))

    def _hide_words(self, ids: Tensor, mask: Tensor, sample: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Rows of the captions with words hidden, after the text layers, and the labels of these words."""
        config = self.text_encoder.config
        hidden, labels = mask_words(
            ids,
            sample,
            seed=seed,
            vocab_size=config.vocab_size,
            mask_id=config.mask_id,
            kept_ids=(config.pad_id, config.cls_id),
            ratio=self.word_ratio,
        )
        return self.encode_text(hidden, mask).tokens, labels


def vtm_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of matching, in float32: the first third are pairs, the rest are none.

        loss = −(Σ over b < B of log softmax(logits[b])[1]  +  Σ over B ≤ b < 3B of log softmax(logits[b])[0]) / 3B

    Args:
        logits: (3B, 2) floating.

    Returns:
        Scalar float32 (float64 of float64).

    Raises:
        ValueError: another shape.
    """
    if logits.ndim != 2 or logits.shape[1] != 2 or not len(logits) or len(logits) % 3:
        raise ValueError(f"logits must be (3B, 2): B pairs, then 2B that are none, got {tuple(logits.shape)}")
    is_pair = torch.arange(len(logits), device=logits.device) < len(logits) // 3
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, is_pair.long())


def _own(rows: Tensor) -> Tensor:
    return rows
