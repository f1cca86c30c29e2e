"""Weights of Hugging Face's VideoMAE models in the published layout, and back.

`VideoMAEForPreTraining` is the published pre-training model, `VideoMAEForVideoClassification` the published classifier.

transformers has stored the biases of q, k and v in three ways ("bias layouts"):

* "q_bias", up to 5.4: parameters `q_bias` and `v_bias` beside three Linears without bias;
* "qkv", 5.5 to 5.16: Linears with biases, `key.bias` among them;
* "qv", from 5.18: the same without `key.bias`.

The published model has one `qkv` Linear without bias, which stacks the rows of q, k and v, and `q_bias` and
`v_bias`. Weights alone do not make the outputs equal: transformers' LayerNorms have other epsilons by default (1e-12,
and 1e-5 in `decoder.norm` and in the classifier's `fc_norm`) than the published 1e-6.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..checkpoint import CheckpointError, State, key_problems

BiasLayout = Literal["q_bias", "qkv", "qv"]

# Names of the biases of q, k and v below `attention.attention.`; None: there is none.
_BIASES: dict[BiasLayout, tuple[str, str | None, str]] = {
    "q_bias": ("q_bias", None, "v_bias"),
    "qkv": ("query.bias", "key.bias", "value.bias"),
    "qv": ("query.bias", None, "value.bias"),
}
_QKV = ("query.weight", "key.weight", "value.weight")
_ATTENTION = "attention.attention."

# (published, Hugging Face) names of the modules inside a block.
_BLOCK = (
    ("norm1", "layernorm_before"),
    ("attn.proj", "attention.output.dense"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)
_PATCHES = "videomae.embeddings.patch_embeddings.projection"


@dataclass(frozen=True)
class _Model:
    """A kind of model. Pairs are (published, Hugging Face) names."""

    name: str  # of the class in transformers
    published: str  # what the published weights are called in messages
    stacks: tuple[tuple[str, str], ...]
    modules: tuple[tuple[str, str], ...]
    same: tuple[str, ...] = ()  # names that are the same in both
    extra: tuple[tuple[str, str], ...] = ()  # modules that are renamed where names need not all be there


_PRETRAINING = _Model(
    "VideoMAEForPreTraining",
    "pre-training",
    (("encoder.blocks", "videomae.encoder.layer"), ("decoder.blocks", "decoder.decoder_layers")),
    (
        ("encoder.patch_embed.proj", _PATCHES),
        ("encoder.norm", "videomae.layernorm"),
        ("decoder.norm", "decoder.norm"),
        ("decoder.head", "decoder.head"),
    ),
    ("mask_token", "encoder_to_decoder.weight"),
)
_CLASSIFIER = _Model(
    "VideoMAEForVideoClassification",
    "classification",
    (("blocks", "videomae.encoder.layer"),),
    (("patch_embed.proj", _PATCHES), ("fc_norm", "fc_norm"), ("head", "classifier")),
    extra=(("norm", "videomae.layernorm"),),
)


def from_huggingface(state: Mapping[str, Tensor], strict: bool = True) -> State:
    """The published layout of the weights of a `VideoMAEForPreTraining` or a `VideoMAEForVideoClassification`.

    `key.bias` of the "qkv" bias layout is dropped whatever its values are: it adds q·b to all scores of a query alike,
    and softmax does not change when a constant is added to its row.

    Args:
        state: state dict of a `VideoMAEForPreTraining` with `use_mean_pooling=False`, or of a
            `VideoMAEForVideoClassification` with `use_mean_pooling=True`, in any bias layout.
        strict: whether `state` must have every name of the model and no other. If not, `state` may be of any of
            transformers' VideoMAE models: known names are renamed, and unknown names stay.

    Returns:
        {published name: tensor}. Tensors are not copied, except `qkv`, which joins three.

    Raises:
        CheckpointError: names are missing or not known; or `use_mean_pooling` was the other value, with which the
            model has another norm than the published one.
    """
    model = _model_of(state, "classifier.weight")
    if strict:
        _check_pooling(state, model)
    blocks = _blocks(state, model, hf=True)
    renames = _renames(blocks, model, extra=not strict)
    q_bias, k_bias, v_bias = _BIASES[bias_layout(state)]
    attention = {hf + _ATTENTION + name for _, hf in blocks for name in filter(None, (*_QKV, q_bias, k_bias, v_bias))}
    known = attention | {hf for _, hf in renames}
    other = state.keys() - known
    if strict:
        _check_names(known - state.keys(), other, f"a {model.name} state dict")
    _check_names(attention - state.keys(), (), "a VideoMAE state dict")
    result = {published: state[hf] for published, hf in renames if hf in state}
    for published, hf in blocks:
        hf += _ATTENTION
        result[f"{published}attn.qkv.weight"] = torch.cat([state[hf + name] for name in _QKV])
        result[f"{published}attn.q_bias"] = state[hf + q_bias]
        result[f"{published}attn.v_bias"] = state[hf + v_bias]
    return result | {name: state[name] for name in other}


def to_huggingface(state: Mapping[str, Tensor], layout: BiasLayout) -> State:
    """The weights of a `VideoMAEForPreTraining` or a `VideoMAEForVideoClassification`, from the published layout.

    `use_mean_pooling` is False in the configuration of the first, and True in that of the second.

    Args:
        state: published pre-training or classification weights.
        layout: where the biases of q, k and v go. "qv" is what transformers reads from 5.18 on, which reads "q_bias"
            too; 5.5 to 5.16 need "qkv", whose `key.bias` becomes zeros, the published model's constant.

    Returns:
        {transformers' name: tensor}. Tensors are not copied: q, k and v are views of `qkv`.

    Raises:
        ValueError: `layout` is unknown.
        CheckpointError: names are missing or not known, or the rows of `qkv` do not fit its biases.
    """
    if layout not in _BIASES:
        raise ValueError(f"layout is {layout!r}; allowed: {', '.join(map(repr, get_args(BiasLayout)))}")
    q_bias, k_bias, v_bias = _BIASES[layout]
    model = _model_of(state, "head.weight")
    blocks = _blocks(state, model, hf=False)
    renames = _renames(blocks, model)
    attention = ("attn.qkv.weight", "attn.q_bias", "attn.v_bias")
    expected = {name for name, _ in renames} | {block + name for block, _ in blocks for name in attention}
    _check_names(expected - state.keys(), state.keys() - expected, f"a published {model.published} state dict")
    result = {hf: state[published] for published, hf in renames}
    for published, hf in blocks:
        hf += _ATTENTION
        weight, q, v = (state[published + name] for name in attention)
        if weight.shape[0] != 3 * q.shape[0]:
            raise CheckpointError(
                f"{published}attn.qkv.weight is {tuple(weight.shape)}; its q_bias of {q.shape[0]} asks for "
                f"{3 * q.shape[0]} rows"
            )
        result |= {hf + name: rows for name, rows in zip(_QKV, weight.chunk(3), strict=True)}
        result |= {hf + q_bias: q, hf + v_bias: v}
        if k_bias:
            result[hf + k_bias] = torch.zeros_like(q)
    return result


def rename_biases(state: Mapping[str, Tensor], layout: BiasLayout) -> State:
    """Rename the biases of a state dict of any of transformers' VideoMAE models; a new `key.bias` is zeros.

    Args:
        state: the state dict, in any bias layout.
        layout: the bias layout wanted.

    Returns:
        {name: tensor} in the bias layout `layout`.

    Raises:
        CheckpointError: `state` has no known bias layout.
    """
    old, new = _BIASES[bias_layout(state)], _BIASES[layout]
    renamed: dict[str | None, str | None] = dict(zip(old, new, strict=True))
    result = {}
    for name, tensor in state.items():
        stem, attention, last = name.rpartition(_ATTENTION)
        stem += attention
        if not attention or last not in renamed:
            result[name] = tensor
        elif renamed[last]:
            result[f"{stem}{renamed[last]}"] = tensor
        if attention and last == old[0] and new[1] and not old[1]:
            result[stem + new[1]] = torch.zeros_like(tensor)
    return result


def is_huggingface(state: Iterable[str]) -> bool:
    """Whether names belong to one of transformers' VideoMAE models.

    Args:
        state: names, or a state dict.

    Returns:
        True if they do.
    """
    return any(_ATTENTION in name for name in state)


def _model_of(state: Iterable[str], head: str) -> _Model:
    return _CLASSIFIER if head in state and "mask_token" not in state else _PRETRAINING


def _check_pooling(state: Mapping[str, Tensor], model: _Model) -> None:
    """Whether the model has the norm that the published one has."""
    has_norm = "videomae.layernorm.weight" in state
    if model is _CLASSIFIER and has_norm and "fc_norm.weight" not in state:
        raise CheckpointError(
            "state has 'videomae.layernorm' and no 'fc_norm': the model was built with use_mean_pooling=False, and its "
            "classifier reads the first token; the published classifier reads the mean of all tokens"
        )
    if model is _PRETRAINING and not has_norm and any(name.startswith("videomae.encoder.") for name in state):
        raise CheckpointError(
            "state has no 'videomae.layernorm': the model was built with use_mean_pooling=True and has no final "
            "encoder LayerNorm, which the published pre-training model has (encoder.norm); only a model with "
            "use_mean_pooling=False can be converted"
        )


def _blocks(state: Iterable[str], model: _Model, hf: bool) -> list[tuple[str, str]]:
    """(published, Hugging Face) name prefixes of all blocks that `state` has, numbered from 0."""
    pairs = []
    for published_stack, hf_stack in model.stacks:
        pattern = re.compile(re.escape(hf_stack if hf else published_stack) + r"\.(\d+)\.")
        depth = len({match[1] for key in state if (match := pattern.match(key))})
        pairs += [(f"{published_stack}.{i}.", f"{hf_stack}.{i}.") for i in range(depth)]
    return pairs


def _renames(blocks: list[tuple[str, str]], model: _Model, extra: bool = False) -> list[tuple[str, str]]:
    """(published, Hugging Face) names of all tensors that differ in the name only."""
    modules = [*model.modules, *((published + p, hf + h) for published, hf in blocks for p, h in _BLOCK)]
    modules += model.extra if extra else ()
    return [(name, name) for name in model.same] + [
        (f"{p}.{kind}", f"{h}.{kind}") for p, h in modules for kind in ("weight", "bias")
    ]


def bias_layout(state: Iterable[str]) -> BiasLayout:
    """Find the bias layout of a state dict of any of transformers' VideoMAE models.

    Args:
        state: names, or a state dict.

    Returns:
        "q_bias", "qkv" or "qv".

    Raises:
        CheckpointError: the names fit no known bias layout.
    """
    found = {key.split(_ATTENTION)[1] for key in state if _ATTENTION in key} - set(_QKV)
    for layout, names in _BIASES.items():
        if found == {name for name in names if name}:
            return layout
    known = "; ".join(f"{layout!r}: {', '.join(filter(None, names))}" for layout, names in _BIASES.items())
    raise CheckpointError(f"state has biases {sorted(found)} below '{_ATTENTION}'; known layouts are {known}")


def _check_names(missing: Iterable[str], unexpected: Iterable[str], what: str) -> None:
    problems = key_problems(missing, unexpected)
    if problems:
        raise CheckpointError(f"state is not {what}: " + "; ".join(problems))
