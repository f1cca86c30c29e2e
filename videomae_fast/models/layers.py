"""The parts of every model: linear maps, recomputation, norms, attention, MLP, block.

Differences from a textbook block:
* every matrix product calls its module through `linear`, so that a module that replaces or wraps it takes effect;
* norms and GELUs keep only their input (`recompute`); the block owns its norms and decides what is recomputed;
* keys have no bias: the published parameters are `q_bias` and `v_bias`;
* a block can compute its last rows only;
* an MLP pads its hidden units with zeros to a multiple of 8, which changes no result.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import attention
from .stochastic_depth import BranchDraw, DropPath

_X = TypeVar("_X")
_Y = TypeVar("_Y")
NORMS: dict[str, Callable[..., nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Linear(nn.Linear):
    """An nn.Linear, with its parameters and names, that also takes the options of `linear`."""

    def forward(self, x: Tensor, bias: Tensor | None = None, out: slice | None = None, padding: int = 0) -> Tensor:
        """The map of `linear`. `padding` > 0 appends zero outputs; < 0 ignores as many appended inputs."""
        weight = self.weight if out is None else self.weight[out]
        bias = self.bias if bias is None else bias
        if padding > 0:
            weight = F.pad(weight, (0, 0, 0, padding))
            bias = bias if bias is None else F.pad(bias, (0, padding))
        elif padding < 0:
            weight = F.pad(weight, (0, -padding))
        return F.linear(x, weight, bias)


def linear(
    x: Tensor, layer: nn.Module, *, bias: Tensor | None = None, out: slice | None = None, padding: int = 0
) -> Tensor:
    """Compute a linear map by calling the module that owns its weight.

    Every matrix product of a model goes through here but that of the patch embedding, which is the op `embed_tokens`.

        out[…, o] = Σ_i weight[o, i] · x[…, i] + bias[o]

    The module is called and its weight is never read, so an FP8 or LoRA layer in its place, a parametrised weight, and
    forward and FSDP hooks all take effect. A layer of another class than `Linear` is called with `x` alone. This
    function then selects the outputs and adds the bias, which gives the same map up to rounding.

    Args:
        x: (…, in) floating.
        layer: maps (…, in) to (…, all outputs).
        bias: (outputs,), for a layer whose bias is a parameter of another module.
        out: the outputs to compute; None computes all.
        padding: only for a `Linear`: > 0 appends this many zero outputs; < 0 says that x has this many zero inputs
            more than the weight.

    Returns:
        (…, outputs), in the autocast dtype, or in the dtype of x outside autocast.

    Raises:
        TypeError: padding is not 0 and the layer is of another class than `Linear`.
    """
    if isinstance(layer, Linear):
        return layer(x, bias, out, padding)
    if padding:
        raise TypeError(f"padding needs a {Linear.__module__}.Linear, got {type(layer).__name__}")
    y = layer(x)
    if out is not None:
        y = y[..., out]
    return y if bias is None else y + bias.to(y.dtype)


def recompute(function: Callable[[_X], _Y], x: _X, when: str = "always") -> _Y:
    """Compute function(x) and keep only x for backward: for a cheap operation followed by a linear map.

    Backward repeats the cheap operation, because the weight gradient of the map needs its result, and stops before the
    last map of `function`. So normalised and activated tensors are not kept, and matrix products are not repeated.
    Two products are an exception: the queries of a block that computes its last rows, and the product before QK-norm.
    Results are bitwise the same with and without recomputation.

    Args:
        function: takes one argument. The other tensors that it uses stay alive anyway: parameters, indices, tables.
        x: a tensor, or a clip.
        when: "never" keeps every result that backward needs; "always" and "auto" keep x only.

    Returns:
        function(x).
    """
    if when == "never":
        return function(x)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def make_norm(name: str, dim: int, eps: float) -> nn.Module:
    """Make a norm over the last dimension, by name.

        layernorm: (x − mean) / sqrt(var + eps) · weight + bias        rmsnorm: x / sqrt(mean(x²) + eps) · weight

    Args:
        name: a key of NORMS.
        dim: size of the last dimension.
        eps: number added to the (biased) variance or to the mean square.

    Returns:
        A module with the parameter `weight` (dim,), and `bias` (dim,) for a LayerNorm.

    Raises:
        ValueError: NORMS has no such name.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got '{name}'")
    return NORMS[name](dim, eps=eps)


class LayerScale(nn.Module):
    """gamma · x with one learned factor per channel, in at least float32 (InternVideo2: `ls1.gamma`, `ls2.gamma`)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim), in the dtype of x."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (x.to(dtype) * self.gamma.to(dtype)).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention whose keys have no bias, in two halves: `project` and `attend`.

    Args:
        dim: D, a multiple of heads.
        heads: attention heads.
        backend: a key of `models.attention.BACKENDS`.
        bias: whether queries and values have biases.
        qk_norm: a key of NORMS: normalise queries and keys over D before the heads are split (InternVideo2). None does
            not normalise.
        eps: eps of the QK-norm.
    """

    def __init__(
        self, dim: int, heads: int, backend: str, *, bias: bool = True, qk_norm: str | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.q_norm = make_norm(qk_norm, dim, eps) if qk_norm else nn.Identity()
        self.k_norm = make_norm(qk_norm, dim, eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, last_rows: int | None = None) -> Tensor:
        """(B, n, D) → (B, n, D), or (B, last_rows, D) for the last rows, which attend to all n rows."""
        return self.attend(*self.project(x, last_rows))

    def project(self, x: Tensor, last_rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last `last_rows` rows or of all; keys and values of all: each (B, rows, heads, head_dim)."""
        dim = x.shape[-1]
        biases = () if self.q_bias is None or self.v_bias is None else (torch.zeros_like(self.v_bias), self.v_bias)
        if last_rows is None:
            bias = torch.cat((self.q_bias, *biases)) if self.q_bias is not None else None
            q, k, v = linear(x, self.qkv, bias=bias).unflatten(2, (3, dim)).unbind(2)
        else:
            bias = torch.cat(biases) if biases else None
            q = linear(x[:, -last_rows:], self.qkv, bias=self.q_bias, out=slice(0, dim))
            k, v = linear(x, self.qkv, bias=bias, out=slice(dim, 3 * dim)).unflatten(2, (2, dim)).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        heads = (self.heads, -1)
        return q.unflatten(2, heads), k.unflatten(2, heads), v.unflatten(2, heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of queries, keys and values, then the output projection: (B, rows, D)."""
        return linear(attention(q, k, v, self.backend).flatten(2), self.proj)


class Mlp(nn.Module):
    """Linear, GELU (erf), Linear, in two halves: `expand`, and `contract`, which begins with the GELU.

    Args:
        dim: D, inputs and outputs.
        hidden: hidden units.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        # Half-precision GEMMs need rows of 16 bytes to be fast; ViT-g's decoder has 2234 hidden units. Zeros are exact.
        self.padding = -hidden % 8

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, dim) → (B, n, dim)."""
        return self.contract(self.expand(x))

    def expand(self, x: Tensor) -> Tensor:
        """(B, n, dim) → (B, n, hidden + padding)."""
        return linear(x, self.fc1, padding=self._padding())

    def contract(self, hidden: Tensor) -> Tensor:
        """The result of `expand` (B, n, hidden + padding) → (B, n, dim)."""
        return linear(F.gelu(hidden), self.fc2, padding=-self._padding())

    def _padding(self) -> int:
        """Zero units to append; 0 if another class has replaced fc1 or fc2, because it knows only its own sizes."""
        return self.padding if isinstance(self.fc1, Linear) and isinstance(self.fc2, Linear) else 0


class Block(nn.Module):
    """A pre-norm transformer block.

        x ← x + drop_path(ls1 · attn(norm1(x)))
        x ← x + drop_path(ls2 · mlp(norm2(x)))

    VideoMAE V2 has LayerNorm, biases of queries and values, and neither QK-norm nor LayerScale. InternVideo2 has
    RMSNorm, QK-norm and LayerScale, and no biases of queries and values; the names are those of its checkpoints.

    FSDP should shard whole blocks: a block calls the halves of `attn` and `mlp`, never `attn` and `mlp` themselves.

    Args:
        dim: D, a multiple of heads.
        heads: attention heads.
        hidden: hidden units of the MLP.
        backend: a key of `models.attention.BACKENDS`.
        norm: a key of NORMS, for norm1, norm2 and QK-norm.
        eps: eps of these norms.
        qkv_bias: whether queries and values have biases.
        qk_norm: whether queries and keys are normalised over D before the heads are split.
        layer_scale: initial gamma of ls1 and ls2; None leaves them out.
        drop_path: rate of stochastic depth, in [0, 1).
        layer: number of this block in the model, encoder first; the draws of stochastic depth depend on it.
        recompute: "never" keeps the results of norms and GELUs for backward; "always" and "auto" recompute them.
        activation_checkpointing: keep only the block's input, and repeat the whole block in backward.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        backend: str = "sdpa",
        norm: str = "layernorm",
        eps: float = 1e-6,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        layer: int = 0,
        recompute: str = "always",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, dim, eps)
        self.attn = Attention(dim, heads, backend, bias=qkv_bias, qk_norm=norm if qk_norm else None, eps=eps)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.norm2 = make_norm(norm, dim, eps)
        self.mlp = Mlp(dim, hidden)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path, layer) if drop_path else None
        self.recompute = recompute
        self.checkpointing = activation_checkpointing

    def forward(self, x: Tensor, last_rows: int | None = None) -> Tensor:
        """(B, n, D) → (B, n, D), or (B, last_rows, D): exactly the last rows, without computing the others."""
        draws = None
        if self.training and self.drop_path is not None:  # drawn here: checkpointing repeats `_forward`
            draws = self.drop_path(x, 0), self.drop_path(x, 1)
        if self.checkpointing:
            return checkpoint(self._forward, x, last_rows, draws, use_reentrant=False)
        return self._forward(x, last_rows, draws)

    def _forward(self, x: Tensor, last_rows: int | None, draws: tuple[BranchDraw, BranchDraw] | None) -> Tensor:
        wanted = x if last_rows is None else x[:, -last_rows:]
        if draws is None:
            x = wanted + self._attention_branch(x, last_rows)
            return x + self._mlp_branch(x)
        attention, mlp = draws
        x = attention.add(wanted, self._attention_branch(attention.select(x), last_rows))
        return mlp.add(x, self._mlp_branch(mlp.select(x)))

    def _attention_branch(self, x: Tensor, last_rows: int | None) -> Tensor:
        q, k, v = recompute(lambda x: self.attn.project(self.norm1(x), last_rows), x, self.recompute)
        return self.ls1(self.attn.attend(q, k, v))

    def _mlp_branch(self, x: Tensor) -> Tensor:
        hidden = recompute(lambda x: self.mlp.expand(self.norm2(x)), x, self.recompute)
        return self.ls2(recompute(self.mlp.contract, hidden, self.recompute))
