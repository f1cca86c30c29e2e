"""The loss of next tokens of one batch: all logits at once, ours, and on a GPU other libraries' by name.

Half of each text are answers. Full logits are those of all tokens; the others get the rows of the answers, as
`VideoCaptioner` hands them over. A call is the loss and its gradients: of the rows, and of the adapter if there is one.
The head is frozen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.baselines.language_loss import IGNORED, full_logits_loss
from benchmarks.caption.sizes import Head
from videomae_fast.models.next_token import language_model_loss

SEED, LENGTH, RANK = 0, 512, 16  # tokens of a text; rank of the published adapters
FULL, OURS = "all logits", "videomae_fast"
LIBRARIES = ("liger", "cut-cross-entropy")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LossBatch:
    """Random rows, tokens and weights.

    Args:
        head: of the language model.
        texts: B, of LENGTH tokens each.
        precision: a key of DTYPES.
        lora: whether the head has an adapter.
        device: of the tensors.
    """

    head: Head
    texts: int
    precision: str
    lora: bool
    device: torch.device

    def __str__(self) -> str:
        head = f"frozen head with LoRA of rank {RANK}" if self.lora else "frozen head"
        return f"{self.texts * LENGTH:,} tokens, {self.head}, {self.precision}, {head}"

    @cached_property
    def leaves(self) -> nn.ParameterDict:
        """`hidden` (B, L, D), `weight` (V, D), frozen, and with LoRA `low` (B, L, R) and `high` (V, R)."""
        generator = torch.Generator(self.device).manual_seed(SEED)
        sizes = {"hidden": (self.texts, LENGTH, self.head.width), "weight": (self.head.words, self.head.width)}
        if self.lora:
            sizes |= {"low": (self.texts, LENGTH, RANK), "high": (self.head.words, RANK)}
        found = nn.ParameterDict()
        for name, size in sizes.items():
            values = torch.randn(size, generator=generator, device=self.device) / size[-1] ** 0.25
            kept = torch.float32 if name in ("low", "high") else DTYPES[self.precision]  # adapters are float32
            found[name] = nn.Parameter(values.to(kept), requires_grad=name != "weight")
        return found

    @cached_property
    def labels(self) -> Tensor:
        """(B, L) int64, IGNORED in the first half of each text."""
        generator = torch.Generator(self.device).manual_seed(SEED + 1)
        words = torch.randint(self.head.words, (self.texts, LENGTH), generator=generator, device=self.device)
        question = torch.arange(LENGTH, device=self.device) < LENGTH // 2
        return torch.where(question, IGNORED, words)

    @cached_property
    def answers(self) -> Tensor:
        """(A,) int64 positions b·L + l of the answers' tokens."""
        place = torch.arange(self.texts * LENGTH, device=self.device).view(self.texts, LENGTH)
        return place[:, LENGTH // 2 :].flatten()


def make_loss(name: str, batch: LossBatch) -> Callable[[], Tensor]:
    """The named implementation on a batch; ValueError for others."""
    leaves = batch.leaves
    adapter = (leaves["low"], leaves["high"]) if batch.lora else None
    if name == FULL:
        return lambda: full_logits_loss(leaves["hidden"], leaves["weight"], batch.labels, adapter)
    if name not in (OURS, *LIBRARIES):
        raise ValueError(f"name must be one of {(FULL, OURS, *LIBRARIES)}, got '{name}'")
    before, targets = batch.answers - 1, batch.labels.flatten()[batch.answers]

    def of_rows(rows: Tensor) -> Tensor:
        return rows.flatten(0, 1).index_select(0, before)

    def loss() -> Tensor:
        low = None if adapter is None else (of_rows(adapter[0]), adapter[1])
        return language_model_loss(
            of_rows(leaves["hidden"]),
            leaves["weight"],
            targets,
            adapter=low,
            ignore_index=None,
            implementation="torch" if name == OURS else name,
        )

    return loss


def gradients(name: str, batch: LossBatch) -> dict[str, Tensor]:
    """The loss, and its gradients by the name of the leaf."""
    leaves = {leaf: tensor for leaf, tensor in batch.leaves.items() if tensor.requires_grad}
    loss = make_loss(name, batch)()
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.detach()} | dict(zip(leaves, found, strict=True))
