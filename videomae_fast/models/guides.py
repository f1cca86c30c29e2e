"""Guiding teachers of InternVideo2's architecture: InternVL-C's image encoder, and InternVideo2 for distillation."""

from math import prod

import torch
from torch import Tensor

from .encoder import DIMENSIONS, Clip, view_clip
from .frozen_teacher import Teacher
from .internvideo2 import InternVideo2
from .norms import add_branch
from .teachers import Observation


class InternVideo2Guide(Teacher):
    """An InternVideo2 that guides masks by the attention of its pool, and hands over rows of its blocks.

    A model of fewer token frames than the clip sees them in groups, each alone. So a model of one frame is an image
    encoder: the image encoder of InternVL-C has InternVideo2's blocks, pool and names.

    Rows of a layer are the residual sum after its block; the pooled row is averaged over the views. The attention is
    that of the mean token to each token, averaged over the heads, without the column of the cls token.

    Args:
        model: with its weights and its pool, on the device that it is to run on. It is frozen and cast in place.
        layers: ascending block numbers.
        num_frames: frames of a clip, a multiple of the model's; None for the model's.
        dtype: of its matrices; see `Teacher`.
        name: for messages.
        clips_at_once: see `Teacher`; a part's features of all tokens live until its masks are drawn.

    Raises:
        ValueError: the model has no pool, `layers` are not ascending block numbers, or `num_frames` is no multiple of
            the model's frames.

    References:
        InternVideo2, arXiv 2403.15377, section 3.1; models/internvl_clip_vision.py and internvideo2_teacher.py of
        OpenGVLab/InternVideo, InternVideo2/single_modality.
    """

    model: InternVideo2

    def __init__(
        self,
        model: InternVideo2,
        layers: tuple[int, ...],
        *,
        num_frames: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        name: str = "InternVideo2",
        clips_at_once: int | None = None,
    ) -> None:
        config = model.config
        if model.clip_projector is None:
            raise ValueError(f"model of teacher {name} has no attention pool (clip_projector), which guides the masks")
        self.num_frames = num_frames or config.num_frames
        if self.num_frames % config.num_frames:
            raise ValueError(
                f"num_frames must be a multiple of the {config.num_frames} frames of teacher {name}, got {num_frames}"
            )
        self.views = self.num_frames // config.num_frames
        frames, height, width = config.grid
        hidden = 4 * config.encoder_dim + int(config.encoder_dim * config.mlp_ratio)
        kept = len(layers) * config.encoder_dim
        super().__init__(
            model,
            name=name,
            grid=(self.views * frames, height, width),
            layers=layers,
            depth=config.encoder_depth,
            dim=config.encoder_dim,
            has_cls=True,
            bytes_per_clip=self.views * config.num_tokens * (hidden + kept) * dtype.itemsize,
            dtype=dtype,
            clips_at_once=clips_at_once,
        )
        self.pooled_dim: int | None = config.clip_embed_dim

    def observe(self, clip: Clip, layout: str = DIMENSIONS) -> Observation:
        """Run the model on all tokens of a part of a batch.

        Args:
            clip: `num_frames` frames of the size the model was built for, as `view_clip` takes it; uint8, or floating
                and normalised with the pixel_mean and pixel_std of the configuration.
            layout: a permutation of "BCTHW".

        Returns:
            The attention and the features, in `dtype`.

        Raises:
            ValueError: the clip has another size; the message names what came.
            TypeError: the clip is neither uint8 nor floating.
        """
        clip = view_clip(clip, (self.num_frames, *self.model.config.image_size), layout)
        with self.running(clip):
            x, branch = self._embed(clip), None
            found = []
            for number, block in enumerate(self.model.blocks):
                x, branch = block(x, branch)
                if number in self.layers:
                    x, branch = add_branch(x, branch), None
                    found.append(x.to(self.dtype))
            assert self.model.clip_projector is not None
            pooled, weights = self.model.clip_projector.with_weights(add_branch(x, branch))
        attention = weights[:, 1:].reshape(clip.shape[0], *self.grid)
        pooled = pooled.unflatten(0, (-1, self.views)).mean(1)
        return Observation(attention, tuple(found), 1, pooled)

    def _embed(self, clip: Clip) -> Tensor:
        """(B·V, 1 + n, D): each view with its cls token. The residual stream is float32, as the published teachers'."""
        model = self.model
        index = torch.arange(prod(self.grid), device=clip.device).expand(clip.shape[0], -1)
        x = model.patch_embed(clip, index, model.pos_embed[0, 1:].repeat(self.views, 1))
        x = x.to(torch.promote_types(x.dtype, torch.float32)).view(clip.shape[0] * self.views, -1, x.shape[-1])
        cls = (model.cls_token + model.pos_embed[:, :1]).to(x.dtype)
        return torch.cat([cls.expand(x.shape[0], -1, -1), x], dim=1)
