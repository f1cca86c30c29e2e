"""InternVideo2: the encoder, and the student of its first stage, which is aligned with teachers at visible tokens.

The mathematics and the names of the parameters are the published ones (models/internvideo2_pretrain.py and
internvideo2_distill.py of OpenGVLab/InternVideo, InternVideo2/single_modality), without the work that the masks
discard: hidden tokens are never embedded, and positions are looked up by token number.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .alignment_heads import AlignmentHead, AlignmentHeads, AlignmentLosses
from .attention_pool import AttentionPool
from .config import InternVideo2Config
from .encoder import DIMENSIONS, Clip, PatchEmbedding, every_token, init_small_linear, make_blocks, open_clip
from .layers import Block
from .norms import add_branch
from .positions import sincos_table
from .teachers import TeacherRows, check_rows, masks_of

Targets = dict[int, tuple[nn.Module, Tensor]]  # by block: a head and the teacher's rows


class InternVideo2(nn.Module):
    """The encoder: patch embedding, cls token, learned positions, blocks, attention pool.

    Its state_dict has the names and shapes of the published checkpoints, without heads.

    Args:
        config: the model. Any number of frames and any size, also non-square.
        pool: whether the model has the attention pool `clip_projector`.

    Attributes:
        undecayed: last parts of the names of parameters that have no weight decay, besides vectors.

    References:
        InternVideo2, arXiv 2403.15377, section 3.1; models/internvideo2.py of the published code.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("cls_token", "pos_embed", "clip_pos_embed", "mae_pos_embed")
    _no_split_modules: ClassVar[tuple[str, ...]] = ("Block",)  # transformers' name for units of FSDP2

    def __init__(self, config: InternVideo2Config, *, pool: bool = True) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.encoder_dim))
        self.pos_embed = nn.Parameter(position_rows(config))
        self.patch_embed = PatchEmbedding(config)
        self.blocks = make_blocks(
            config,
            config.encoder_dim,
            config.encoder_depth,
            config.encoder_heads,
            norm="rmsnorm",
            qkv_bias=False,
            qk_norm=True,
            layer_scale=config.layer_scale,
        )
        self.clip_projector = AttentionPool(config, config.pool_heads, config.clip_embed_dim) if pool else None
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_small_linear)
        with torch.no_grad():
            for i, block in enumerate(self.blocks):
                assert isinstance(block, Block)
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_((2 * (i + 1)) ** 0.5)

    def tokens(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """The tokens after the last block, without the cls token; the published models have no norm after it.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the model was built for; uint8,
                or floating and normalised with the configuration's pixel_mean and pixel_std. Or CroppedClips, which
                have no layout.
            index: (B, K) int32 or int64 tokens to compute, unique per sample, beside the cls token. None: all.
            layout: a permutation of "BCTHW".

        Returns:
            (B, K, D), in the order of the index, or (B, N, D) in (t, h, w) order.

        Raises:
            ValueError: the clip or the index has another size, or the layout is wrong; the message names what came.
            TypeError: the clip is neither uint8 nor floating, or the index is no integer tensor.
        """
        return self._run(clip, index, layout, cls=False)

    def features(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """The row that the attention pool makes of the cls token and the tokens; without a pool, the mean of `tokens`.

        Args:
            clip: as `tokens` takes it.
            index: as `tokens` takes it.
            layout: a permutation of "BCTHW".

        Returns:
            (B, clip_embed_dim), or (B, D) without a pool.

        Raises:
            ValueError: as `tokens`.
            TypeError: as `tokens`.
        """
        if self.clip_projector is None:
            return self.tokens(clip, index, layout).mean(1)
        return self.clip_projector(self._run(clip, index, layout, cls=True))

    @property
    def feature_dim(self) -> int:
        """The width of `features`: clip_embed_dim, or D without a pool."""
        return self.config.encoder_dim if self.clip_projector is None else self.config.clip_embed_dim

    def _run(self, clip: Clip, index: Tensor | None, layout: str, cls: bool) -> Tensor:
        clip = open_clip(clip, self.config, layout)
        index = every_token(clip, self.config) if index is None else index
        if index.ndim != 2 or index.shape[0] != clip.shape[0] or index.shape[1] < 1:
            raise ValueError(
                f"index must be ({clip.shape[0]}, K) with one token or more of each clip, got {tuple(index.shape)}"
            )
        *blocks, last = self.blocks
        x, branch = self.embed(clip, index), None
        for block in blocks:
            x, branch = block(x, branch)
        return add_branch(*last(x, branch, None if cls else index.shape[1]))

    def embed(self, clip: Clip, visible: Tensor, table: Tensor | None = None) -> Tensor:
        """The input of the first block: the cls token and the visible tokens, with positions.

        Args:
            clip: (B, C, T, H, W), as `open_clip` returns it.
            visible: (B·M, K) int32 or int64 tokens, unique per row; M rows of a clip follow each other.
            table: (1, 1 + N, D) positions of the cls token and of all tokens; None is `pos_embed`.

        Returns:
            (B·M, 1 + K, D).

        Raises:
            ValueError: sizes do not fit the model; the message names the argument.
            TypeError: the clip is neither uint8 nor floating.
        """
        batch = clip.shape[0]
        masks = masks_of(visible, batch)
        table = self.pos_embed if table is None else table
        parts = []  # one after the other: two masks of a clip may list the same token
        for index in visible.unflatten(0, (batch, masks)).unbind(1):
            x = self.patch_embed(clip, index, table[0, 1:])
            cls = (self.cls_token + table[:, :1]).to(x.dtype)
            parts += [cls.expand(batch, -1, -1), x]
        return torch.cat(parts, dim=1).view(visible.shape[0], 1 + visible.shape[1], -1)


class InternVideo2ForAlignment(InternVideo2):
    """The student of stage 1, and of the distillation to small models: encoder and heads.

    Its state_dict has the keys and shapes of a published stage-1 checkpoint, whose heads are the last 6 blocks for the
    image teacher, the pooled row, and the last 4 blocks for the video teacher.

    Args:
        config: the model.
        heads: which blocks are compared with teachers.

    Raises:
        ValueError: the heads do not fit the depth of the model.

    References:
        InternVideo2, arXiv 2403.15377, section 3.1; models/internvideo2_pretrain.py and internvideo2_distill.py of the
        published code.
    """

    def __init__(self, config: InternVideo2Config, heads: AlignmentHeads) -> None:
        heads.check_depth(config.encoder_depth)
        super().__init__(config, pool=heads.pooled_dim is not None)
        self.heads = heads
        dim, recompute = config.encoder_dim, config.recompute
        if heads.image_layers:
            self.clip_pos_embed = nn.Parameter(position_rows(config))
            self.clip_decoder = nn.ModuleList(
                AlignmentHead(dim, heads.image_dim, heads.image_mlp, recompute) for _ in heads.image_layers
            )
        if heads.pooled_dim is not None:
            self.final_clip_decoder = AlignmentHead(config.clip_embed_dim, heads.pooled_dim, heads.image_mlp, recompute)
        if heads.video_layers:
            self.mae_pos_embed = nn.Parameter(position_rows(config, cls=False))
            self.mae_decoder = nn.ModuleList(
                AlignmentHead(dim, heads.video_dim, True, recompute) for _ in heads.video_layers
            )

    def forward(
        self,
        clip: Clip,
        visible: Tensor,
        image: TeacherRows | None,
        video: TeacherRows | None,
        layout: str = DIMENSIONS,
    ) -> AlignmentLosses:
        """The losses of the visible tokens, M masks per clip.

            loss_j = mean over rows of 2 − 2·cos(norm_j(head_j(x_j + position)), teacher's row)

        with x_j the rows after block j; the head of the pooled row adds no position.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the model was built for; uint8,
                or floating and normalised with the configuration's pixel_mean and pixel_std. Or CroppedClips.
            visible: (B·M, K) int32 or int64 tokens, unique per row. The M masks of a clip follow each other.
            image: of the image teacher; None where the model has no head for it.
            video: of the video teacher; None where the model has no head for it.
            layout: a permutation of "BCTHW".

        Returns:
            The losses.

        Raises:
            ValueError: sizes do not fit the model, or a teacher's rows are missing, too many or of another shape; the
                message names the argument.
            TypeError: the clip is neither uint8 nor floating.
        """
        clip = open_clip(clip, self.config, layout)
        x, branch = self.embed(clip, visible), None
        (batch, *_), (masked, rows) = clip.shape, visible.shape
        self._check(image, video, batch, masked, rows)
        image_heads, image_position = self._image_heads(image, visible, x.dtype)
        video_heads, video_position = self._video_heads(video, visible, x.dtype)
        reads_cls = self.clip_projector is not None or any(t.shape[1] > rows for _, t in image_heads.values())
        of_image, of_video = [], []
        for i, block in enumerate(self.blocks):
            is_last = i == len(self.blocks) - 1
            x, branch = block(x, branch, rows if is_last and not reads_cls else None)
            if i in self.heads.layers or is_last:
                x, branch = add_branch(x, branch), None
            if i in image_heads:
                head, target = image_heads[i]
                of_image.append(head(x[:, -target.shape[1] :], target, image_position))
            if i in video_heads:
                head, target = video_heads[i]
                of_video.append(head(x[:, -rows:], target, video_position))
        return AlignmentLosses(
            torch.stack(of_image) if of_image else None,
            self._pooled(x, image, batch),
            torch.stack(of_video) if of_video else None,
        )

    def _pooled(self, x: Tensor, image: TeacherRows | None, batch: int) -> Tensor | None:
        if self.clip_projector is None:
            return None
        assert image is not None and image.pooled is not None
        x = self.clip_projector(x).unflatten(0, (batch, -1))
        return self.final_clip_decoder(x, image.pooled[:, None].expand(-1, x.shape[1], -1))

    def _image_heads(
        self, image: TeacherRows | None, visible: Tensor, dtype: torch.dtype
    ) -> tuple[Targets, Tensor | None]:
        """The heads of the image layers with their targets, and the positions of the targets' rows."""
        if not self.heads.image_layers or image is None:
            return {}, None
        pairs = zip(self.clip_decoder, image.layers, strict=True)
        numbers = F.pad(visible + 1, (1, 0))[:, -image.layers[0].shape[1] :]  # the cls token is row 0
        position = _looked_up(self.clip_pos_embed, numbers, dtype)
        return dict(zip(self.heads.image_layers, pairs, strict=True)), position

    def _video_heads(
        self, video: TeacherRows | None, visible: Tensor, dtype: torch.dtype
    ) -> tuple[Targets, Tensor | None]:
        if not self.heads.video_layers or video is None:
            return {}, None
        pairs = zip(self.mae_decoder, video.layers, strict=True)
        position = _looked_up(self.mae_pos_embed, visible, dtype)
        return dict(zip(self.heads.video_layers, pairs, strict=True)), position

    def _check(self, image: TeacherRows | None, video: TeacherRows | None, batch: int, masked: int, rows: int) -> None:
        heads = self.heads
        pooled = None if heads.pooled_dim is None else (batch, heads.pooled_dim)
        with_cls = (masked, rows, heads.image_dim), (masked, 1 + rows, heads.image_dim)
        check_rows("image", image, len(heads.image_layers), with_cls, pooled)
        check_rows("video", video, len(heads.video_layers), ((masked, rows, heads.video_dim),), None)


def _looked_up(table: Tensor, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a table (1, N, D), cast after the look-up, so that their gradients are summed in the table's dtype."""
    return F.embedding(numbers, table[0]).to(dtype)


def position_rows(config: InternVideo2Config, cls: bool = True) -> Tensor:
    """The table that learned positions start from: (1, 1 + N, D) with zeros for the cls token, or (1, N, D)."""
    return F.pad(sincos_table(config.grid, config.encoder_dim), (0, 0, int(cls), 0))[None]
