"""What a captioner needs of a causal language model of transformers: its layers, its head, its context, and LoRA."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._optional import require

# What models do to logits after their head, by the name in their configuration, and the value that does nothing.
_LOGIT_CHANGES: dict[str, tuple[Any, ...]] = {
    "final_logit_softcapping": (None,),  # Gemma 2
    "logit_scale": (None, 1.0),  # Cohere
    "logits_scaling": (None, 1.0),  # Granite
    "lm_head_multiplier": (None, 1.0),  # Falcon-H1
}
_CONTEXT = ("max_position_embeddings", "n_positions")

# By the language model: VideoChat2's third stage adapts these. Vicuna's are peft's default for LLaMA.
LORA_TARGETS = {
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"),
    "vicuna": ("q_proj", "v_proj"),
}


class Head(NamedTuple):
    """What `language_model_loss` takes of a language model's head.

    Attributes:
        weight: (V, D).
        bias: (V,), or None.
        adapter: the rows through LoRA's first matrix, scaled, (A, R), and its second one, (V, R); None without LoRA.
    """

    weight: Tensor
    bias: Tensor | None
    adapter: tuple[Tensor, Tensor] | None


def check_language_model(model: nn.Module) -> None:
    """Make sure that a model is a causal language model whose loss can be computed from its last hidden rows.

    Args:
        model: of transformers, such as LlamaForCausalLM.

    Raises:
        TypeError: it is of another kind, or has no linear head.
        ValueError: it changes logits after its head.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate") or not hasattr(model, "get_output_embeddings"):
        raise TypeError(f"language_model must be a causal language model of transformers, got {type(model).__name__}")
    _plain_head(model)
    for name, neutral in _LOGIT_CHANGES.items():
        if getattr(config, name, None) not in neutral:
            raise ValueError(
                f"language_model {type(model).__name__} changes its logits ({name} is {getattr(config, name)}), which "
                "the loss of next tokens here does not"
            )


def body(model: nn.Module) -> nn.Module:
    """The language model without its head, whose `last_hidden_state` the head reads."""
    found: nn.Module = model.base_model  # type: ignore[assignment]
    return found


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a language model, first to last.

    Raises:
        ValueError: there is no list of as many modules as its configuration has layers.
    """
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    for module in body(model).modules():  # the outermost comes first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"language_model {type(model).__name__} has no list of {count} layers (num_hidden_layers)")


def context_length(model: nn.Module) -> int:
    """Tokens that a language model has positions for; 2³¹ if its configuration does not tell."""
    found = (getattr(model.config, name, None) for name in _CONTEXT)
    return next((length for length in found if isinstance(length, int)), 2**31)


def check_vocabulary(model: nn.Module, tokens: int) -> None:
    """Make sure that a language model has a row for each token of a tokenizer. It may have more: rows are often padded.

    Args:
        model: of transformers.
        tokens: of the tokenizer.

    Raises:
        ValueError: it has fewer.
    """
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if tokens > rows:
        raise ValueError(f"tokenizer has {tokens} tokens, and the language model {rows}: it is of another model")


def head_of(model: nn.Module, rows: Tensor) -> Head:
    """The head of a language model, and what LoRA adds to it.

    Args:
        model: that `check_language_model` has passed.
        rows: (A, D), that the head will read.

    Returns:
        Its parameters.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    plain = _plain_head(model)
    if head is plain or head.merged or head.disable_adapters:
        return Head(plain.weight, plain.bias, None)
    adapters = head.active_adapters
    if len(adapters) != 1:
        raise ValueError(f"the head of the language model must have one active adapter, got {adapters}")
    first, second = (matrices[adapters[0]] for matrices in (head.lora_A, head.lora_B))
    low = first(head.lora_dropout[adapters[0]](rows.to(first.weight.dtype))) * head.scaling[adapters[0]]
    return Head(plain.weight, plain.bias, (low, second.weight))


def _plain_head(model: nn.Module) -> nn.Linear:
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    plain = getattr(head, "base_layer", head)
    if not isinstance(plain, nn.Linear):
        raise TypeError(f"the head of {type(model).__name__} must be linear, got {type(plain).__name__}")
    return plain


def add_language_lora(
    model: nn.Module,
    targets: Sequence[str] = LORA_TARGETS["mistral"],
    *,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.1,
) -> None:
    """Put adapters into the linear maps of a language model, by the library peft.

        W·x becomes W·x + (alpha / rank) · B·A·dropout(x), with A drawn and B zero at first; W is frozen

    Adapters are float32, whatever the dtype of the model. Names in the state dict change as peft changes them.

    Args:
        model: of transformers; changed in place.
        targets: last parts of the names of the linear maps; LORA_TARGETS has the published ones.
        rank: of the adapters.
        alpha: of their scale.
        dropout: rate of dropout of what they read, in [0, 1).

    Raises:
        ImportError: peft is not installed.
        ValueError: a number is out of range, the model has adapters already, or it has no linear map of a target's
            name.

    References:
        Hu et al., LoRA, ICLR 2022; numbers: video_chat2/scripts of OpenGVLab/Ask-Anything.
    """
    if rank < 1 or not 0 <= dropout < 1 or not alpha > 0:
        raise ValueError(
            f"rank must be at least 1, alpha positive and dropout in [0, 1), got {rank}, {alpha} and {dropout}"
        )
    peft = require("peft")
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(f"language_model {type(model).__name__} has adapters already")
    linears = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if lacking := [name for name in targets if name not in linears]:
        raise ValueError(
            f"targets {', '.join(lacking)} are no linear maps of {type(model).__name__}; it has "
            f"{', '.join(sorted(linears))}"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def language_lora(model: nn.Module) -> dict[str, Any] | None:
    """The arguments of `add_language_lora` that made the adapters of a language model; None if it has none.

    Raises:
        ValueError: adapters differ in rank, scale or dropout.
    """
    adapted: dict[str, Any] = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    found = {_settings(module) for module in adapted.values()}
    if len(found) > 1:
        raise ValueError(f"adapters of the language model differ in rank, alpha and dropout: {sorted(found)}")
    if not found:
        return None
    rank, alpha, dropout = found.pop()
    targets = sorted({name.rpartition(".")[2] for name in adapted})
    return {"targets": targets, "rank": rank, "alpha": alpha, "dropout": dropout}


def _settings(module: Any) -> tuple[int, float, float]:
    """Rank, alpha and dropout of a layer with adapters."""
    (name,) = module.lora_A
    rank = len(module.lora_A[name].weight)
    return rank, rank * module.scaling[name], getattr(module.lora_dropout[name], "p", 0.0)
