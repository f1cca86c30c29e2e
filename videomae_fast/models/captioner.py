"""A language model that reads a video through a connector: InternVideo2's third stage and LongViViT's last."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videomae_kernels import gather_tokens

from .chat_tokens import ChatTokens
from .connectors import Connector, temporal_mean
from .encoder import DIMENSIONS, Clip
from .gated_attention import CrossAttentionLayers
from .language_model import Head, body, check_language_model, context_length, decoder_layers, head_of
from .next_token import check_implementation, language_model_loss, next_token_log_probs
from .values import can_be_read
from .video_tower import VideoTower

INJECTIONS = ("prefix", "cross-attention")


class CaptionLoss(NamedTuple):
    """What a step of a captioner gives.

    Attributes:
        loss: () float32, the mean over the batch's answer tokens.
        tokens: how many they are, so that means of several batches or processes can be weighted.
    """

    loss: Tensor
    tokens: int


class VideoCaptioner(nn.Module):
    """A video tower, a connector and a causal language model, trained on the next tokens of answers.

        rows = connector(vision_encoder(clip).tokens)
        "prefix"            the language model reads [text before, rows, text after] as embeddings
        "cross-attention"   it reads the text, and each of its layers the rows, through gates that start at 0
        loss = mean over answer tokens w of −log p(w | tokens before w, rows)

    The language model is frozen but for adapters of `add_language_lora`, which is called before. Its head computes the
    rows of answers only, and their logits by chunks (`language_model_loss`).

    Args:
        vision_encoder: the video tower. `train_video` says what of it is trained.
        connector: for tokens of the tower's width; for "prefix" its rows are as wide as the language model.
        language_model: a causal language model of transformers; for "cross-attention" its layers get hooks.
        injection: one of INJECTIONS.
        mask_ratio: share of the clip's tokens that `draw` hides, in training and inference; 0.3 in LongViViT, or 0.
        time_mean: whether the tokens of a place are averaged over time before the connector, as in LongViViT.
        loss: `implementation` of `language_model_loss`.
        cross_attention: heads and head_dim of `CrossAttentionLayers`, if not its own.

    Raises:
        ValueError: widths do not fit, a name or ratio is not allowed, or the language model changes its logits or has
            no list of layers.
        TypeError: `language_model` is no causal language model of transformers.
        ImportError: the package of `loss` is missing.

    References:
        InternVideo2, arXiv 2403.15377, section 3.3; MVBench (VideoChat2), arXiv 2311.17005, section 4; LongViViT, arXiv
        2312.07395, section 3; Flamingo, arXiv 2204.14198.
    """

    vision_encoder: VideoTower
    connector: Connector

    def __init__(
        self,
        vision_encoder: VideoTower,
        connector: Connector,
        language_model: nn.Module,
        *,
        injection: str = "prefix",
        mask_ratio: float = 0.0,
        time_mean: bool = False,
        loss: str = "torch",
        cross_attention: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        check_language_model(language_model)
        width = int(language_model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        if injection not in INJECTIONS:
            raise ValueError(f"injection must be one of {INJECTIONS}, got '{injection}'")
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
        if connector.source_dim != vision_encoder.token_dim:
            raise ValueError(
                f"connector must be for tokens {vision_encoder.token_dim} wide, as the video tower makes them, got one "
                f"for {connector.source_dim}"
            )
        if injection == "prefix" and connector.out_dim != width:
            raise ValueError(
                f"connector must make rows {width} wide, as the language model reads them, got {connector.out_dim}"
            )
        self.injection, self.mask_ratio, self.time_mean = injection, mask_ratio, time_mean
        self.loss = check_implementation(loss)
        self.undecayed = (*getattr(vision_encoder, "undecayed", ()), "query_tokens", "extra_query_tokens", "latents")
        self.vision_encoder, self.connector, self.language_model = vision_encoder, connector, language_model
        for name, parameter in language_model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        self.cross_attention: CrossAttentionLayers | None = None
        if injection == "cross-attention":
            layers = decoder_layers(language_model)
            self.cross_attention = CrossAttentionLayers(layers, width, connector.out_dim, **(cross_attention or {}))
        self.num_prefix = connector.num_rows if injection == "prefix" else 0
        self.max_length = context_length(language_model) - self.num_prefix
        self.train_video("none")

    def train_video(self, train: str) -> None:
        """Choose what of the video tower is trained.

        Args:
            train: "none"; or "all" or "last:K", as `VideoTower.freeze`. The pool of the tower, whose row nobody reads,
                is never trained.

        Raises:
            ValueError: `train` is none of these.
        """
        if train == "none":
            self.vision_encoder.freeze_whole()
            return
        self.vision_encoder.freeze(train)
        pool = getattr(self.vision_encoder, "clip_projector", None)
        if pool is not None:
            pool.requires_grad_(False)

    def draw(self, sample: Tensor, *, seed: int, image: bool = False) -> Tensor | None:
        """Visible tokens of clips by `mask_ratio`, for `forward` and `generate`; None if all are.

        Args:
            sample: (B,) int64 sample numbers.
            seed: of the run, in [0, 2⁶³).
            image: whether the samples are images.

        Returns:
            As `VideoTower.draw`.
        """
        if not self.mask_ratio:
            return None
        return self.vision_encoder.draw(sample, self.mask_ratio, seed=seed, image=image)

    def forward(
        self,
        clip: Clip,
        tokens: ChatTokens,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
    ) -> CaptionLoss:
        """The loss of answers.

        Args:
            clip: as `VideoTower.forward` takes it; clip b is that of text b.
            tokens: as `encode_chat` and `encode_captions` make them, on the device of the model.
            visible: (B, K) int32 or int64 tokens of the clips, unique per clip; None: all. See `draw`.
            layout: a permutation of "BCTHW".

        Returns:
            The loss, and its number of tokens.

        Raises:
            ValueError: there are more clips than texts or fewer; texts are longer than the language model's context, or
                have a token that it does not have; no text has an answer; or as `VideoTower.forward`.
            TypeError: as `VideoTower.forward`.
        """
        if not len(tokens.answers):
            raise ValueError("tokens have no answer: nothing is to be predicted")
        found, head, targets = self._answers(tokens, self.read(clip, tokens, visible, layout))
        loss = language_model_loss(
            found,
            head.weight,
            targets,
            head.bias,
            adapter=head.adapter,
            ignore_index=None,
            implementation=self.loss,
        )
        return CaptionLoss(loss, len(targets))

    @torch.no_grad()
    def log_likelihood(
        self, clip: Clip, tokens: ChatTokens, clip_of: Tensor, visible: Tensor | None = None, layout: str = DIMENSIONS
    ) -> Tensor:
        """How likely answers are, of which one clip may have several.

            Σ over the answer tokens w of a text of log p(w | tokens before w, rows)

        A clip is seen once, whatever the number of its texts. The last token of an answer, which ends it, counts.

        Args:
            clip: C clips, as in `forward`.
            tokens: of B texts, each with an answer, none of them cut.
            clip_of: (B,) int64 in [0, C), the clip of each text.
            visible: as in `forward`, of the clips.
            layout: a permutation of "BCTHW".

        Returns:
            (B,) float32 (float64 if the model is).

        Raises:
            ValueError: a text has no answer or was cut, or `clip_of` has another length; or as `forward`.
            TypeError: as `forward`.
        """
        if tokens.cut or tokens.unanswered or clip_of.shape != tokens.place.shape:
            raise ValueError(
                f"tokens must be of {len(clip_of)} whole texts with answers, got {len(tokens.place)}, of which "
                f"{tokens.cut} were cut and {tokens.unanswered} have no answer"
            )
        rows = self._rows(clip, visible, layout).index_select(0, clip_of)
        self._check(tokens, rows)
        found, head, targets = self._answers(tokens, rows)
        each = next_token_log_probs(found, head.weight, targets, head.bias, adapter=head.adapter)
        text = tokens.answers.div(tokens.ids.shape[1], rounding_mode="floor")
        return each.new_zeros(len(clip_of)).index_add(0, text, each)

    def _answers(self, tokens: ChatTokens, rows: Tensor) -> tuple[Tensor, Head, Tensor]:
        """The rows (A, D) before answer tokens, the head that reads them, and these tokens (A,)."""
        inputs, mask = self._inputs(tokens, rows)
        with self._reading(rows):
            hidden = body(self.language_model)(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
        # An answer's token is predicted by the position before it, and answers are after the rows of the video.
        length, added = tokens.ids.shape[1], self.num_prefix
        text = tokens.answers.div(length, rounding_mode="floor")
        before = tokens.answers + (text + 1) * added - 1
        found = hidden.last_hidden_state.flatten(0, 1).index_select(0, before)
        return found, head_of(self.language_model, found), tokens.ids.flatten().index_select(0, tokens.answers)

    def read(
        self,
        clip: Clip,
        tokens: ChatTokens,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
    ) -> Tensor:
        """The rows (B, Q, ·) of videos that the language model reads. Arguments are those of `forward`."""
        rows = self._rows(clip, visible, layout)
        self._check(tokens, rows)
        return rows

    def _rows(self, clip: Clip, visible: Tensor | None, layout: str) -> Tensor:
        found: Tensor = self.vision_encoder(clip, visible, layout).tokens
        mask = None
        if self.time_mean:
            image = self.vision_encoder.is_image(clip, layout)
            grid = (self.vision_encoder.image_config if image else self.vision_encoder.config).grid
            count = visible.shape[1] if visible is not None else grid[0] * grid[1] * grid[2]
            found, mask = temporal_mean(found[:, -count:], visible, grid)  # a cls token is in front
        rows: Tensor = self.connector(found, mask)
        return rows

    @torch.no_grad()
    def generate(
        self,
        clip: Clip,
        tokens: ChatTokens,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
        **options: Any,
    ) -> Tensor:
        """Answers, by the `generate` of transformers.

        Args:
            clip: as in `forward`.
            tokens: as `encode_chat(…, generation=True)` and `begin_captions` make them, padded on the left.
            visible: as in `forward`; a model trained with `mask_ratio` takes what `draw` gives here, too.
            layout: a permutation of "BCTHW".
            **options: of `generate`, such as max_new_tokens, num_beams or streamer.

        Returns:
            (B, new tokens) int64, padded behind the end of each answer.

        Raises:
            ValueError: as `forward`; or, on a CPU, texts are padded on the right.
            TypeError: as `forward`.
        """
        if can_be_read(tokens.mask) and not bool(tokens.mask[:, -1].all()):
            raise ValueError("tokens must be padded on the left, as encode_chat(…, generation=True) makes them")
        rows = self.read(clip, tokens, visible, layout)
        inputs, mask = self._inputs(tokens, rows)
        with self._reading(rows):
            model: Any = self.language_model
            answers: Tensor = model.generate(inputs_embeds=inputs, attention_mask=mask.long(), **options)
        return answers

    def _inputs(self, tokens: ChatTokens, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the language model reads: embeddings (B, L + Q, ·), with the rows in their place, and the mask."""
        text = self.language_model.get_input_embeddings()(tokens.ids)  # type: ignore[operator]
        if not self.num_prefix:
            return text, tokens.mask
        batch, length = tokens.ids.shape
        position = torch.arange(length + self.num_prefix, device=text.device).expand(batch, -1)
        start = tokens.place[:, None]
        after = position - self.num_prefix
        in_video = (position >= start) & (after < start)
        source = torch.where(in_video, length + position - start, torch.where(position < start, position, after))
        inputs = gather_tokens(torch.cat([text, rows.to(text.dtype)], 1), source)
        mask = torch.cat([tokens.mask, tokens.mask.new_ones(batch, self.num_prefix)], 1).gather(1, source)
        return inputs, mask

    def _reading(self, rows: Tensor) -> Any:
        if self.cross_attention is None:
            return nullcontext()
        layers = self.language_model.modules()
        if torch.is_grad_enabled() and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
            raise ValueError(
                "language_model has gradient checkpointing, which would run its layers again without the video: use "
                "injection 'prefix', or disable it"
            )
        return self.cross_attention.reading(rows)

    def _check(self, tokens: ChatTokens, video: Tensor) -> None:
        if len(tokens.ids) != len(video):
            raise ValueError(f"there must be as many texts as clips, got {len(tokens.ids)} and {len(video)}")
        if tokens.ids.shape[1] > self.max_length:
            raise ValueError(
                f"tokens must be {self.max_length} a text at most, which the language model has positions for beside "
                f"{self.num_prefix} rows of the video, got {tokens.ids.shape[1]}: lower max_tokens"
            )
        if can_be_read(tokens.ids):
            known = self.language_model.get_input_embeddings().num_embeddings  # type: ignore[operator]
            if int(tokens.ids.max()) >= known:
                raise ValueError(
                    f"tokens must be from 0 to {known - 1}, the vocabulary of the language model, got "
                    f"{int(tokens.ids.max())}: is the tokenizer that of the model?"
                )
