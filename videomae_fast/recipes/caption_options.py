"""Sections of options for training on answers: the video tower, the connector, the language model.

Defaults are those of VideoChat2 (arXiv 2311.17005, and OpenGVLab/Ask-Anything) where it tells them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..data.sources.captions import CAPTIONS_HELP
from ..data.sources.instructions import INSTRUCTIONS_HELP
from ..models.captioner import INJECTIONS
from ..models.connectors import Connector, MeanPoolMLP, PerceiverResampler, QFormer
from ..models.language_model import LORA_TARGETS, add_language_lora
from ..models.next_token import IMPLEMENTATIONS
from .config import Section, option
from .contrast_options import ContrastData, TowerOptions

# Of each kind: its class, and the names of its arguments for queries and layers; "" if it has no layers.
CONNECTOR_KINDS: dict[str, tuple[Callable[..., Connector], str, str]] = {
    "qformer": (QFormer, "queries", "depth"),
    "resampler": (PerceiverResampler, "latents", "depth"),
    "mean": (MeanPoolMLP, "rows", ""),
}


@dataclass(frozen=True)
class CaptionData(ContrastData):
    """The videos and images with captions or conversations, and the clips cut from them."""

    conversations: ClassVar[bool] = True

    data: str = option("", f"{CAPTIONS_HELP}; or {INSTRUCTIONS_HELP}, also in a mixture", free=True)
    eval_data: str = option("", "captions and conversations to evaluate on, in one of the forms of --data", free=True)


@dataclass(frozen=True)
class CaptionTowerOptions(TowerOptions):
    """The video tower, and how a step computes its blocks."""

    train: str = option(
        "none",
        "what is trained of the video tower: none; last:K: its last K blocks, and what follows them; all",
    )
    mask_ratio: float = option(
        0.0,
        "share of tokens that are hidden at random in training, evaluation and describe; they are never read "
        "(published by LongViViT: 0.3)",
        least=0,
        below=1,
    )


@dataclass(frozen=True)
class ConnectorOptions(Section):
    """The connector between the video tower and the language model."""

    connector: str = option(
        "qformer",
        "what makes few rows of the video's tokens; qformer: VideoChat2's BERT of queries; resampler: Flamingo's; "
        "mean: the mean token through an MLP",
        choices=CONNECTOR_KINDS,
    )
    inject: str = option(
        "prefix",
        "how the language model reads the rows; prefix: between its embeddings; cross-attention: in each layer, by "
        "gates that start at 0",
        choices=INJECTIONS,
    )
    queries: int = option(0, "rows of the connector; 0: 32 of qformer, 64 of resampler, 1 of mean", least=0)
    extra_queries: int = option(
        0, "further rows of qformer, zero at first (published: 64 from the second stage on)", least=0
    )
    connector_depth: int = option(0, "layers of the connector; 0: 12 of qformer, 6 of resampler", least=0)
    time_mean: bool = option(False, "average the tokens of a place over time before the connector, as LongViViT")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra_queries and self.connector != "qformer":
            raise ValueError(f"extra_queries {self.extra_queries} is of connector qformer, got '{self.connector}'")
        if self.connector_depth and not CONNECTOR_KINDS[self.connector][2]:
            raise ValueError(f"connector_depth {self.connector_depth} does not go with connector '{self.connector}'")

    def build(self, source_dim: int, width: int) -> Connector:
        """Make the connector.

        Args:
            source_dim: width of the video tower's tokens.
            width: of the language model.

        Returns:
            A new connector. For cross-attention the resampler's rows are as wide as the tokens.
        """
        kind, queries, depth = CONNECTOR_KINDS[self.connector]
        sizes: dict[str, Any] = {queries: self.queries, depth: self.connector_depth}
        given = {name: size for name, size in sizes.items() if size}
        if self.connector == "qformer":
            given["extra_queries"] = self.extra_queries
        narrow = self.connector == "resampler" and self.inject == "cross-attention"
        return kind(source_dim, None if narrow else width, **given)


@dataclass(frozen=True)
class LanguageOptions(Section):
    """The language model, what it is asked, and its adapters."""

    language_model: str = option(
        "",
        "folder of a causal language model of transformers, with its tokenizer, or a GGUF file of one; it is frozen",
        free=True,  # a run continues with the same weights wherever they are: its checkpoints know their digest
    )
    prompt: str = option(
        "Describe the video concisely.",
        "the question that each caption answers, if the tokenizer has a chat template; without one captions are plain",
    )
    max_tokens: int = option(
        128, "tokens of a question with its answer, beside the video's; a longer text is cut, and counted", least=1
    )
    lora_rank: int = option(0, "rank of adapters in the language model; 0: none (published: 16)", least=0)
    lora_alpha: float = option(32.0, "adapters are scaled by lora_alpha / lora_rank", least=0)
    lora_dropout: float = option(0.1, "rate of dropout of what adapters read", least=0, below=1)
    lora_targets: str = option(
        "mistral",
        "linear maps that get adapters; mistral: all in each layer, and the head; vicuna: of queries and values",
        choices=LORA_TARGETS,
    )
    loss: str = option(
        "torch",
        "what computes the loss of next tokens; torch: ours, by chunks; the others are libraries, on GPUs only",
        choices=IMPLEMENTATIONS,
    )
    recompute_language: bool = option(
        False,
        "repeat each layer of the language model in backward instead of keeping its activations; with prefix only",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise ValueError("prompt is empty: it is the question that captions answer")
        if self.lora_rank and not self.lora_alpha:
            raise ValueError("lora_alpha must be positive, got 0.0")

    def adapt(self, model: nn.Module) -> None:
        """Put adapters into the language model, if there are to be any, and make it recompute its layers if asked.

        Args:
            model: the language model, frozen from then on but for its adapters.

        Raises:
            ImportError: peft is missing.
            ValueError: the language model lacks a linear map.
        """
        if self.lora_rank:
            targets, rank = LORA_TARGETS[self.lora_targets], self.lora_rank
            add_language_lora(model, targets, rank=rank, alpha=self.lora_alpha, dropout=self.lora_dropout)
        if self.recompute_language:
            # The second name is that of transformers before 5.
            enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
