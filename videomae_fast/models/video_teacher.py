"""The video teacher of an alignment: the encoder of VideoMAE, on all tokens of a clip."""

import torch
from torch import Tensor

from .encoder import DIMENSIONS, Clip, Encoder, every_token, open_clip
from .frozen_teacher import Teacher
from .norms import add_branch
from .rows import choose_rows
from .teachers import TeacherRows, cat_rows, masks_of


class VideoMAETeacher(Teacher):
    """Rows of some blocks of a VideoMAE encoder that sees whole clips.

    Rows of a layer are the residual sum after its block; those of the encoder's last block are normed by `norm`, and no
    others, as published. Rows are taken right after their block, so no layer's features of all tokens are kept; the
    last block that is needed computes the wanted rows only, and blocks after it do not run.

    Args:
        encoder: with its weights, on the device that it is to run on. It is frozen and cast in place.
        layers: ascending block numbers.
        dtype: of its matrices; see `Teacher`.
        name: for messages.
        clips_at_once: see `Teacher`.

    Raises:
        ValueError: `layers` are not ascending block numbers of the encoder.

    References:
        InternVideo2, arXiv 2403.15377, section 3.1; models/videomae.py of OpenGVLab/InternVideo,
        InternVideo2/single_modality.
    """

    model: Encoder

    def __init__(
        self,
        encoder: Encoder,
        layers: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.bfloat16,
        name: str = "VideoMAE",
        clips_at_once: int | None = None,
    ) -> None:
        config = encoder.config
        widths = 4 * config.encoder_dim + int(config.encoder_dim * config.mlp_ratio)
        super().__init__(
            encoder,
            name=name,
            grid=config.grid,
            layers=layers,
            depth=config.encoder_depth,
            dim=config.encoder_dim,
            has_cls=False,
            bytes_per_clip=config.num_tokens * widths * dtype.itemsize,
            dtype=dtype,
            clips_at_once=clips_at_once,
        )

    def rows(self, clip: Clip, visible: Tensor, layout: str = DIMENSIONS) -> TeacherRows:
        """The rows at the visible tokens.

        Args:
            clip: as `open_clip` takes it, of the size the encoder was built for: all frames, uint8 or normalised.
            visible: (B·M, K) int32 or int64 tokens, M masks of a clip following each other, which may list the same
                tokens.
            layout: a permutation of "BCTHW".

        Returns:
            Rows (B·M, K, D) of each layer, in `dtype`; no pooled row.

        Raises:
            ValueError: the clip or `visible` has another size; the message names what came.
            TypeError: the clip is neither uint8 nor floating.
        """
        clip = open_clip(clip, self.model.config, layout)
        masks = masks_of(visible, clip.shape[0])
        index = visible.long().view(clip.shape[0], -1)
        with self.running(clip):
            parts = [self._run(clip[part], index[part], masks) for part in self.parts(clip.shape[0])]
        return cat_rows(parts)

    def _run(self, clip: Clip, index: Tensor, masks: int) -> TeacherRows:
        encoder, last = self.model, self.layers[-1]
        x, branch = encoder.patch_embed(clip, every_token(clip, encoder.config), encoder.position), None
        found = []
        for number, block in enumerate(encoder.blocks[: last + 1]):
            x, branch = block(x, branch, index if number == last else None)
            if number in self.layers:
                x, branch = add_branch(x, branch), None
                found.append(x if number == last else choose_rows(x, index))
        if last == encoder.config.encoder_depth - 1:
            found[-1] = encoder.norm(found[-1])
        return TeacherRows(tuple(rows.to(self.dtype).unflatten(1, (masks, -1)).flatten(0, 1) for rows in found))
