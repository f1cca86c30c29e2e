"""What classifiers and video towers share: which parameters belong to which layer, and which are trained."""

from typing import ClassVar

from torch import nn

from .layers import Block


class ClassifierParts(nn.Module):
    """A classifier or a video tower of blocks, with parts before them and parts after them.

    Attributes:
        first_parts: names of the modules and parameters before the blocks.
        head_parts: names of the modules after the blocks; they may be None.
        undecayed: last parts of the names of parameters that have no weight decay, besides vectors.
    """

    first_parts: ClassVar[tuple[str, ...]]
    head_parts: ClassVar[tuple[str, ...]]
    undecayed: ClassVar[tuple[str, ...]]
    blocks: nn.ModuleList
    _no_split_modules: ClassVar[tuple[str, ...]] = ("Block",)  # transformers' name for units of FSDP2

    def layer_id(self, name: str) -> int:
        """The layer of a parameter, for learning rates that decay with depth.

        0 for what is before the blocks, i + 1 for block i, L + 1 for what is after them; L blocks. The learning rate of
        layer l is scaled by decay^(L + 1 − l).

        Args:
            name: of a parameter of this model, also of one that was put into it (LoRA), without wrappers' prefixes.

        Returns:
            The layer, in [0, L + 1].

        Raises:
            ValueError: the name begins with none of the model's parts.

        References:
            `get_num_layer_for_vit` in optim_factory.py of VideoMAE V2 and of InternVideo2, which puts unknown names
            into the last layer.
        """
        first, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if first in self.first_parts:
            return 0
        if first == "blocks" and number.isdecimal() and int(number) < len(self.blocks):
            return int(number) + 1
        if first in self.head_parts:
            return len(self.blocks) + 1
        parts = [*self.first_parts, f"blocks.0 to blocks.{len(self.blocks) - 1}", *self.head_parts]
        raise ValueError(
            f"name is '{name}', which is of no layer: parameters of this model begin with {', '.join(parts[:-1])} or "
            f"{parts[-1]}; take the names of the model itself, not of a wrapper"
        )

    def freeze(self, train: str) -> None:
        """Choose the parameters that are trained; the others keep no activations for backward and get no gradient.

        Frozen blocks drop no branches (`drop_path`) from then on, so call this once, after building the model.

        Args:
            train: "all"; "head": what is after the blocks; or "last:K": this and the last K blocks.

        Raises:
            ValueError: `train` is none of these, or K is not in [1, L].
        """
        depth = len(self.blocks)
        word, colon, number = train.partition(":")
        last = int(number) if number.isdecimal() else 0
        if train not in ("all", "head") and not (word == "last" and colon and 1 <= last <= depth):
            raise ValueError(f"train must be 'all', 'head' or 'last:K' with K from 1 to {depth}, got '{train}'")
        frozen = 0 if train == "all" else depth - last
        self.requires_grad_(True)
        if train == "all":
            return
        for name in self.first_parts:
            getattr(self, name).requires_grad_(False)
        for block in self.blocks[:frozen]:
            assert isinstance(block, Block)
            block.requires_grad_(False)
            block.drop_path = None


def check_head(num_classes: int, head_dropout: float) -> None:
    """The sizes of a classifier's head: at least one class, and a rate of dropout in [0, 1)."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes}")
    if not 0 <= head_dropout < 1:
        raise ValueError(f"head_dropout must be in [0, 1), got {head_dropout}")
