"""The parts of every model: linear maps, recomputation, norms, attention, perceptron, block.

What differs from a textbook block:
* every matrix product calls its module through `linear`, so that whatever replaces or wraps the module acts;
* a norm and a GELU keep their input only (`recompute`); the block, which owns its norms, says what is recomputed;
* keys have no bias: the published parameters are `q_bias` and `v_bias`;
* a block can compute its last rows only;
* hidden sizes that GEMMs dislike are padded with zeros, which changes nothing outside.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import attention, check_backend
from .stochastic_depth import BranchDraw, DropPath

_X = TypeVar("_X")
_Y = TypeVar("_Y")
NORMS: dict[str, Callable[..., nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Linear(nn.Linear):
    """An nn.Linear, with its parameters and names, that can also compute what `linear` may ask of it."""

    def forward(self, x: Tensor, bias: Tensor | None = None, out: slice | None = None, padding: int = 0) -> Tensor:
        """What `linear` documents. `padding` > 0 appends outputs; < 0 ignores inputs appended in that way."""
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
    """A linear map, by calling the module that owns its weight. Every matrix product of a model goes through here.

        out[…, o] = Σ_i weight[o, i] · x[…, i] + bias[o]

    Modules are called, never read, so an FP8 or LoRA layer in the module's place, a parametrised weight, and forward
    and FSDP hooks all act. A layer that is not of the class `Linear` is called with `x` alone: its bias is then added
    to the product and outputs are selected from it, which is the same map to rounding.

    Args:
        x: (…, in) floating.
        layer: maps (…, in) to (…, all outputs).
        bias: (outputs,), for a layer whose bias is a parameter of another module.
        out: which outputs are wanted; None wants all.
        padding: only for a `Linear`: > 0 appends this many zero outputs; < 0 says that x has this many zero inputs
            more than the weight.

    Returns:
        (…, outputs), in the autocast dtype or that of x.

    Raises:
        TypeError: padding for a layer of another class.
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
    """function(x), keeping nothing but x for backward: for a cheap operation followed by a linear map.

    Backward repeats the cheap operation, because the map's weight gradient needs its result, and stops before the
    last map of `function`. So normalised and activated tensors are never kept, and no matrix product is repeated,
    except the queries of a block on its last rows and what precedes QK-norm. Results are bitwise the same either way.

    Args:
        function: of one argument. Whatever else it uses is alive anyway: parameters, indices, tables.
        x: a tensor, or a clip.
        when: "never" keeps every result that backward needs; "always" and "auto" keep x only.

    Returns:
        function(x).
    """
    if when == "never":
        return function(x)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def make_norm(name: str, dim: int, eps: float) -> nn.Module:
    """A norm over the last dimension, by name.

        layernorm: (x − mean) / sqrt(var + eps) · weight + bias        rmsnorm: x / sqrt(mean(x²) + eps) · weight

    Args:
        name: a key of NORMS.
        dim: size of the last dimension.
        eps: added to the (biased) variance or the mean square.

    Returns:
        A module with the parameter `weight` (dim,), and `bias` (dim,) for a LayerNorm.

    Raises:
        ValueError: another name.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got '{name}'")
    return NORMS[name](dim, eps=eps)


class LayerScale(nn.Module):
    """gamma · x with one learned factor a channel, in float32 at least (InternVideo2: `ls1.gamma`, `ls2.gamma`)."""

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
        qk_norm: a key of NORMS, for queries and keys over D, before heads are split (InternVideo2); None for no norm.
        eps: of that norm.
    """

    def __init__(
        self, dim: int, heads: int, backend: str, *, bias: bool = True, qk_norm: str | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.backend = check_backend(backend)
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.q_norm = make_norm(qk_norm, dim, eps) if qk_norm else nn.Identity()
        self.k_norm = make_norm(qk_norm, dim, eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, last_rows: int | None = None) -> Tensor:
        """(B, n, D) → (B, n, D), or only its last `last_rows` rows, with all n rows as keys and values."""
        return self.attend(*self.project(x, last_rows))

    def project(self, x: Tensor, last_rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last `last_rows` rows, or of all, and keys and values: each (B, rows, heads, head_dim)."""
        dim = x.shape[-1]
        q_bias, kv_bias = self.q_bias, None
        if self.v_bias is not None:
            kv_bias = torch.cat((torch.zeros_like(self.v_bias), self.v_bias))
        if last_rows is None:
            bias = None if q_bias is None or kv_bias is None else torch.cat((q_bias, kv_bias))
            q, k, v = linear(x, self.qkv, bias=bias).unflatten(2, (3, dim)).unbind(2)
        else:
            q = linear(x[:, -last_rows:], self.qkv, bias=q_bias, out=slice(0, dim))
            k, v = linear(x, self.qkv, bias=kv_bias, out=slice(dim, 3 * dim)).unflatten(2, (2, dim)).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        heads = (self.heads, -1)
        return q.unflatten(2, heads), k.unflatten(2, heads), v.unflatten(2, heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the queries gather from the values, projected: (B, rows, D)."""
        return linear(attention(q, k, v, self.backend).flatten(2), self.proj)


class Mlp(nn.Module):
    """Linear, GELU (erf), Linear, in two halves: `expand`, and `contract`, which begins with the GELU.

    Args:
        dim: D.
        hidden: hidden units.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        # Half-precision GEMMs want rows of 16 bytes; ViT-g's decoder has 2234 hidden units. Zero padding is exact.
        self.padding = -hidden % 8

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, dim) → (B, n, dim)."""
        return self.contract(self.expand(x))

    def expand(self, x: Tensor) -> Tensor:
        """(B, n, dim) → (B, n, hidden), or a few zero units more."""
        return linear(x, self.fc1, padding=self._padding())

    def contract(self, hidden: Tensor) -> Tensor:
        """What `expand` returned → (B, n, dim)."""
        return linear(F.gelu(hidden), self.fc2, padding=-self._padding())

    def _padding(self) -> int:
        """Units appended; none where another layer has taken the place of one, which knows its own sizes only."""
        return self.padding if isinstance(self.fc1, Linear) and isinstance(self.fc2, Linear) else 0


class Block(nn.Module):
    """A pre-norm transformer block.

        x ← x + drop_path(ls1 · attn(norm1(x)))
        x ← x + drop_path(ls2 · mlp(norm2(x)))

    VideoMAE V2 has LayerNorm, biases of queries and values, and neither QK-norm nor LayerScale. InternVideo2 has
    RMSNorm, no such biases, QK-norm and LayerScale, under the names that its checkpoints have.

    A block is what FSDP should shard: it calls the halves of `attn` and `mlp`, between which it recomputes, and the
    layers in them, but not `attn` and `mlp` themselves.

    Args:
        dim: D, a multiple of heads.
        heads: attention heads.
        hidden: hidden units of the perceptron.
        backend: a key of `models.attention.BACKENDS`.
        norm: a key of NORMS, for norm1, norm2 and QK-norm.
        eps: of these norms.
        qkv_bias: whether queries and values have biases.
        qk_norm: whether queries and keys are normalised over D before the heads are split.
        layer_scale: initial gamma of ls1 and ls2; None leaves them out.
        drop_path: rate of stochastic depth, in [0, 1).
        layer: number of this block among all blocks of the model, which stochastic depth draws by.
        recompute: see `recompute`.
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
        self.drop_path = DropPath(drop_path, layer)
        self.recompute = recompute
        self.checkpointing = activation_checkpointing

    def forward(self, x: Tensor, last_rows: int | None = None) -> Tensor:
        """(B, n, D) → (B, n, D), or exactly its last `last_rows` rows without computing the others."""
        # Drawn before, because a checkpoint repeats the rest in backward.
        draws = self.drop_path(x, 0), self.drop_path(x, 1)
        if self.checkpointing:
            return checkpoint(self._forward, x, last_rows, *draws, use_reentrant=False)
        return self._forward(x, last_rows, *draws)

    def _forward(self, x: Tensor, last_rows: int | None, attention: BranchDraw, mlp: BranchDraw) -> Tensor:
        attended = self._attention_branch(attention.select(x), last_rows)
        if last_rows is not None:
            x = x[:, -last_rows:]
        x = attention.add(x, attended)
        return mlp.add(x, self._mlp_branch(mlp.select(x)))

    def _attention_branch(self, x: Tensor, last_rows: int | None) -> Tensor:
        q, k, v = recompute(lambda x: self.attn.project(self.norm1(x), last_rows), x, self.recompute)
        return self.ls1(self.attn.attend(q, k, v))

    def _mlp_branch(self, x: Tensor) -> Tensor:
        hidden = recompute(lambda x: self.mlp.expand(self.norm2(x)), x, self.recompute)
        return self.ls2(recompute(self.mlp.contract, hidden, self.recompute))
