"""InternVideo2's second stage with sound: captions are compared with the video, and with sound and video together."""

from typing import Any

import torch
from torch import Tensor, nn

from .audio_tower import AudioRows, AudioTower
from .bert import SplitBert
from .dual_encoder import check_pairs, unit_rows
from .encoder import DIMENSIONS, Clip, init_small_linear
from .fusion import FusionOutput, Gather, Sight, VideoTextFusionModel
from .linear import Linear, linear
from .negatives import SOUND_STREAMS
from .video_tower import VideoRows, VideoTower, zero_gradient


class AudioVideoTextModel(VideoTextFusionModel):
    """`VideoTextFusionModel` with an audio tower.

    Fusion layers read projected tokens, of the video or of sound and video:

        v = av_concat_vision_proj(video.tokens)                 a = av_concat_audio_proj(sound.tokens)
        VTC, VTM, MLM       of normalise(vision_proj(video.pooled)) and v, as without sound
        AVTC, AVTM, AVMLM   of normalise(av_fusion([audio_proj(sound.pooled), vision_proj(video.pooled)])) and [a, v]

    where both av_concat_… are a Linear and a LayerNorm. AVTM has a head of its own, `avtm_head`. MLM and AVMLM hide the
    same words, so that the text layers read them once. Images have no sound, and the first three losses alone.

    Its state_dict has the names and shapes of the published code with the losses above, but for the words' decoder and
    the copies of the audio tower's table, which are in one place here.

    Args:
        vision_encoder: the video tower.
        text_encoder: the split text model; its `source_dim` is the width of the projected tokens, 768 as published.
        audio_encoder: the audio tower.
        embed_dim: E; 768 as published.
        temperature: a key of TEMPERATURES; "internvideo2" as published.
        word_ratio: share of the caption's words that are hidden.

    Raises:
        ValueError: as `VideoTextFusionModel`, but any `source_dim` will do.

    References:
        models/internvideo2_stage2_audiovisual.py and scripts/pretraining/stage2/6B/config.py of OpenGVLab/InternVideo,
        InternVideo2/multi_modality.
    """

    def __init__(
        self,
        vision_encoder: VideoTower,
        text_encoder: SplitBert,
        audio_encoder: AudioTower,
        embed_dim: int = 768,
        temperature: str = "internvideo2",
        word_ratio: float = 0.5,
    ) -> None:
        super().__init__(vision_encoder, text_encoder, embed_dim, temperature, word_ratio)
        width = text_encoder.source_dim
        self.audio_encoder = audio_encoder
        self.av_concat_vision_proj = _projection(vision_encoder.token_dim, width)
        self.av_concat_audio_proj = _projection(audio_encoder.dim, width)
        self.audio_proj = Linear(audio_encoder.dim, embed_dim)
        self.av_fusion = Linear(2 * embed_dim, embed_dim)
        self.avtm_head = Linear(text_encoder.dim, 2)
        for head in self._heads_of_sound():
            head.apply(init_small_linear)
        self.av_concat_vision_proj.apply(init_small_linear)

    def forward(  # type: ignore[override]
        self,
        clip: Clip | None,
        ids: Tensor,
        mask: Tensor,
        sample: Tensor | None,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
        *,
        spectrogram: Tensor | None = None,
        video: VideoRows | None = None,
        seed: int,
        pair_ids: Tensor | None = None,
        gather: Gather | None = None,
    ) -> FusionOutput:
        """Features and losses, with and without the sound.

        Args:
            clip: as `VideoTextFusionModel.forward` takes it.
            ids: as `VideoTextFusionModel.forward` takes it.
            mask: as `VideoTextFusionModel.forward` takes it.
            sample: as `VideoTextFusionModel.forward` takes it.
            visible: as `VideoTextFusionModel.forward` takes it.
            layout: as `VideoTextFusionModel.forward` takes it.
            video: as `VideoTextFusionModel.forward` takes it.
            seed: as `VideoTextFusionModel.forward` takes it.
            pair_ids: as `VideoTextFusionModel.forward` takes it.
            gather: as `VideoTextFusionModel.forward` takes it.
            spectrogram: (B, T, M), as `AudioTower.forward` takes it; zeros for a video without sound. None: images.

        Returns:
            The features and losses; `sound` is None without a spectrogram.

        Raises:
            ValueError: as `VideoTextFusionModel.forward` and `AudioTower.forward`; there are more sounds than clips, or
                fewer.
            TypeError: as these.
        """
        video = self.rows_of(clip, video, visible, layout)
        check_pairs(ids, video)
        audio = None if spectrogram is None else self.encode_sound(spectrogram)
        return self.losses(video, ids, mask, sample, seed=seed, pair_ids=pair_ids, gather=gather, audio=audio)

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
        audio: AudioRows | None = None,
    ) -> FusionOutput:
        """As `forward`, from rows of the video tower and of the audio tower."""
        seen = self._sight(video)
        if audio is None:
            (found,) = self._compare([seen], ids, mask, sample, seed, pair_ids, gather)
            unused = [p for part in (self.audio_encoder, *self._heads_of_sound()) for p in part.parameters()]
            return found._replace(pairs=found.pairs._replace(scale=zero_gradient(found.pairs.scale, *unused)))
        if audio.pooled.shape[0] != video.pooled.shape[0]:
            raise ValueError(
                f"there must be as many sounds as clips, got {audio.pooled.shape[0]} and {video.pooled.shape[0]}"
            )
        tokens = torch.cat([_project(audio.tokens, self.av_concat_audio_proj), seen.tokens], dim=1)
        heard = Sight(tokens, self.project_sound(audio.pooled, video.pooled), self.avtm_head, SOUND_STREAMS)
        found, sound = self._compare([seen, heard], ids, mask, sample, seed, pair_ids, gather)
        return found._replace(sound=sound)

    def encode_sound(self, spectrogram: Tensor) -> AudioRows:
        """What the audio tower makes of spectrograms (B, T, M)."""
        rows: AudioRows = self.audio_encoder(spectrogram)
        return rows

    def project_sound(self, audio: Tensor, video: Tensor) -> Tensor:
        """Features (B, E) of length 1, float32, of `AudioRows.pooled` (B, H) and `VideoRows.pooled` (B, F) together."""
        both = torch.cat([linear(audio, self.audio_proj), linear(video, self.vision_proj)], dim=-1)
        return unit_rows(linear(both, self.av_fusion))

    def freeze_audio(self) -> None:
        """Train nothing of the audio tower, as published; its projections are trained."""
        self.audio_encoder.requires_grad_(False)

    def _check_source(self, vision_encoder: VideoTower, text_encoder: SplitBert) -> None:
        """Any width will do: tokens are projected to it."""

    def _source(self, tokens: Tensor) -> Tensor:
        return _project(tokens, self.av_concat_vision_proj)

    def _heads_of_sound(self) -> tuple[nn.Module, ...]:
        return self.av_concat_audio_proj, self.audio_proj, self.av_fusion, self.avtm_head


def _projection(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(Linear(dim, width), nn.LayerNorm(width))


def _project(tokens: Tensor, projection: Any) -> Tensor:
    normed: Tensor = projection[1](linear(tokens, projection[0]))
    return normed
