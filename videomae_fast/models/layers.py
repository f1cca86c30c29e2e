"""The parts of every model: LayerScale, attention, block.

Differences from a textbook block:
* every matrix product calls its module through `linear`, so that a module that replaces or wraps it takes effect;
* norms and GELUs keep only their input: the linear map after them makes its input again in backward (`Source`);
* a block takes and returns its last residual branch apart, so that the next norm scales and adds it in its own pass;
* keys have no bias: the published parameters are `q_bias` and `v_bias`;
* a block can compute its last rows or listed rows only, or the mean of its rows, whose last product then has one row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import attention
from .linear import Copies, Linear, Source, autocast_copies, linear
from .mlp import Mlp
from .norms import Branch, ScaledBranch, add_branch, add_norm, drawn, make_norm
from .rows import Rows, choose_rows
from .stochastic_depth import BranchDraw, DropPath


class LayerScale(nn.Module):
    """gamma · x with one learned factor per channel (InternVideo2: `ls1.gamma`, `ls2.gamma`), not yet multiplied."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> ScaledBranch:
        """x (…, dim) and gamma (dim,), which the addition multiplies.

        Gamma is copied, because the next block may multiply it when FSDP has freed the parameters of this one.
        """
        return ScaledBranch(x, self.gamma.clone())


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
        elementwise: the implementation of the QK-norm.
    """

    k_bias: Tensor | None  # zeros between q_bias and v_bias

    def __init__(
        self,
        dim: int,
        heads: int,
        backend: str,
        *,
        bias: bool = True,
        qk_norm: str | None = None,
        eps: float = 1e-6,
        elementwise: str = "triton",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.register_buffer("k_bias", torch.zeros(dim) if bias else None, persistent=False)
        self.q_norm = make_norm(qk_norm, dim, eps, elementwise) if qk_norm else None
        self.k_norm = make_norm(qk_norm, dim, eps, elementwise) if qk_norm else None
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """(B, n, D) → (B, n, D), or (B, rows, D) for the last rows or listed rows, which attend to all n rows."""
        return self.attend(*self.project(x, rows))

    def project(
        self,
        x: Tensor,
        rows: Rows = None,
        copies: Copies | None = None,
        source: Source | None = None,
    ) -> tuple[Tensor, ...]:
        """Queries of the rows that `rows` chooses, as in `Block`, or of all; keys and values of all.

        They are packed as one matrix product writes them: (B, n, 3, heads, head_dim) for all rows, or for chosen rows
        queries (B, rows, heads, head_dim) and (B, n, 2, heads, head_dim). With QK-norm they are three tensors.
        """
        dim = x.shape[-1]
        bias = None if copies and self.qkv in copies else self._join(self.biases())
        if rows is None:
            qkv = linear(x, self.qkv, bias=bias, copies=copies, source=source)
            if self.q_norm is None:
                return (qkv.unflatten(2, (3, self.heads, -1)),)
            q, k, v = qkv.unflatten(2, (3, dim)).unbind(2)
        else:
            of_rows = source and source.of_rows(partial(choose_rows, rows=rows))
            q = linear(choose_rows(x, rows), self.qkv, bias=bias, copies=copies, out=slice(0, dim), source=of_rows)
            kv = linear(x, self.qkv, bias=bias, copies=copies, out=slice(dim, 3 * dim), source=source)
            if self.q_norm is None:
                return q.unflatten(2, (self.heads, -1)), kv.unflatten(2, (2, self.heads, -1))
            k, v = kv.unflatten(2, (2, dim)).unbind(2)
        assert self.k_norm is not None
        _, q, _ = add_norm(q, None, self.q_norm)  # read where the product wrote them, in the dtype that attention reads
        _, k, _ = add_norm(k, None, self.k_norm)
        return tuple(t.unflatten(2, (self.heads, -1)) for t in (q, k, v))

    def attend(self, *qkv: Tensor, copies: Copies | None = None) -> Tensor:
        """Attention of what `project` returns, then the output projection: (B, rows, D)."""
        return linear(attention(*qkv, backend=self.backend).flatten(2), self.proj, copies=copies)

    def biases(self) -> tuple[Tensor, ...]:
        """The parts of the bias of `qkv`: of queries, of keys (zeros), of values; none without biases."""
        if self.q_bias is None or self.k_bias is None or self.v_bias is None:
            return ()
        return self.q_bias, self.k_bias, self.v_bias

    @staticmethod
    def _join(parts: tuple[Tensor, ...]) -> Tensor | None:
        return torch.cat([part.to(parts[0].dtype) for part in parts]) if parts else None

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Attention":
        super()._apply(fn, recurse)
        if self.k_bias is not None:
            self.k_bias.zero_()  # memory that replaces that of the device "meta" holds anything
        return self


class Block(nn.Module):
    """A pre-norm transformer block.

        x ← x + drop_path(ls1 · attn(norm1(x)))
        x ← x + drop_path(ls2 · mlp(norm2(x)))

    A block takes and returns x as two terms: the residual stream, and a branch that is neither scaled nor added yet.
    The next norm does both in its own pass over memory; so does `add_norm` after the last block. With stochastic depth
    the branch is of the kept samples only, and the norm is computed for those that the next branch keeps.

    VideoMAE V2 has LayerNorm, biases of queries and values, and neither QK-norm nor LayerScale. InternVideo2 has
    RMSNorm, QK-norm and LayerScale, and no biases of queries and values; the names are those of its checkpoints.

    FSDP should shard whole blocks: a block calls the halves of `attn` and `mlp`, never `attn` and `mlp` themselves.

    Args:
        dim: D, a multiple of heads.
        heads: attention heads.
        hidden: hidden units of the MLP.
        backend: a key of `models.attention.BACKENDS`.
        norm: a key of NORMS, for norm1, norm2 and QK-norm.
        elementwise: a key of `models.norms.IMPLEMENTATIONS`; it computes norm1, norm2 and QK-norm. "triton" also
            computes the bias and the GELU of the MLP in one pass, and LayerScale in that of an RMSNorm.
        eps: eps of these norms.
        qkv_bias: whether queries and values have biases.
        qk_norm: whether queries and keys are normalised over D before the heads are split.
        layer_scale: initial gamma of ls1 and ls2; None leaves them out.
        drop_path: rate of stochastic depth, in [0, 1).
        layer: number of this block in the model, encoder first; the draws of stochastic depth depend on it.
        recompute: "never" keeps the results of LayerNorms and GELUs for backward; "always" and "auto" recompute them.
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
        elementwise: str = "triton",
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
        self.norm1 = make_norm(norm, dim, eps, elementwise)
        self.attn = Attention(
            dim,
            heads,
            backend,
            bias=qkv_bias,
            qk_norm=norm if qk_norm else None,
            eps=eps,
            elementwise=elementwise,
        )
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.norm2 = make_norm(norm, dim, eps, elementwise)
        self.mlp = Mlp(dim, hidden, elementwise)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path, layer) if drop_path else None
        self.recompute = recompute
        self.checkpointing = activation_checkpointing

    def forward(
        self, x: Tensor, branch: Branch | None = None, rows: Rows = None, mean: bool = False
    ) -> tuple[Tensor, Branch | None]:
        """Run the block on x + branch.

        Args:
            x: (B, n, D), the residual stream.
            branch: (B, n, D), to be added to it; with LayerScale or stochastic depth its factors; or None.
            rows: compute exactly the last rows, as many as this number, or exactly the rows that this tensor
                lists, as `choose_rows` takes it, without computing the others. None computes all n rows.
            mean: compute exactly the mean of these rows. The mean commutes with the residual sum, LayerScale and the
                last product of the MLP, which is then computed for one row.

        Returns:
            The same two terms after the block, of (B, n, D), (B, rows, D) or, for the mean, (B, 1, D), the branch with
            stochastic depth of fewer samples, or None if it was added. `add_branch` adds them.
        """
        draws = None
        if self.training and self.drop_path is not None:  # drawn here: checkpointing repeats `_forward`
            draws = self.drop_path(x, 0), self.drop_path(x, 1)
        if self.checkpointing:  # one tensor is kept, not two
            return checkpoint(self._sum, add_branch(x, branch), rows, mean, draws, use_reentrant=False), None
        return self._forward(x, branch, rows, mean, draws)

    def _sum(self, x: Tensor, rows: Rows, mean: bool, draws: tuple[BranchDraw, BranchDraw] | None) -> Tensor:
        return add_branch(*self._forward(x, None, rows, mean, draws))

    def _forward(
        self,
        x: Tensor,
        branch: Branch | None,
        rows: Rows,
        mean: bool,
        draws: tuple[BranchDraw, BranchDraw] | None,
    ) -> tuple[Tensor, Branch | None]:
        layers = self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2
        copies = autocast_copies(x.device.type, layers, (self.attn.qkv, self.attn.biases()))
        attention, mlp = draws if draws is not None else (None, None)
        x, y, source = add_norm(x, branch, self.norm1, attention)
        of_drawn = attention.select(rows) if attention and isinstance(rows, Tensor) else rows
        branch = drawn(self._attention_branch(y, source, of_drawn, copies), attention)
        x, y, source = add_norm(choose_rows(x, rows), branch, self.norm2, mlp)
        return _mean(x, mean), drawn(self._mlp_branch(y, source, copies, mean), mlp)

    def _attention_branch(self, x: Tensor, source: Source | None, rows: Rows, copies: Copies) -> Branch:
        qkv = self.attn.project(x, rows, copies, None if self.recompute == "never" else source)
        scaled: Branch = self.ls1(self.attn.attend(*qkv, copies=copies))
        return scaled

    def _mlp_branch(self, x: Tensor, source: Source | None, copies: Copies, mean: bool) -> Branch:
        keep = self.recompute == "never"
        hidden = self.mlp.expand(x, copies, None if keep else source)
        scaled: Branch = self.ls2(self.mlp.contract(hidden, copies, keep, mean))
        return scaled


def _mean(x: Tensor, wanted: bool) -> Tensor:
    return x.mean(1, keepdim=True) if wanted else x
