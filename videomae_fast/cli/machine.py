"""`videomae-fast memory` and `env`: commands for the memory of a GPU and the packages of this machine."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .._text import printable_lines
from ..models import CONFIGS
from ..models.families import SIZES


def add_memory(commands: Any) -> None:
    """Add `memory` to the commands."""
    memory = commands.add_parser(
        "memory",
        help="predict the memory of a training step and the largest batch for a GPU, without a GPU",
        description="Predict where the memory of a training step goes on a GPU, and the largest batch that fits. "
        "It needs no GPU. `python -m benchmarks.memory` shows the published code beside it.",
    )
    add_memory_options(memory, SIZES)
    memory.add_argument(
        "--task",
        default="pretrain",
        choices=("pretrain", "finetune"),
        help="whose step: of pre-training with masks, or of fine-tuning on all tokens (default: %(default)s)",
    )
    memory.add_argument("--activation-checkpointing", action="store_true", help="recompute every block in backward")
    memory.set_defaults(run=_memory)


def add_memory_options(parser: argparse.ArgumentParser, sizes: Collection[str] = CONFIGS) -> None:
    """Add the options of a memory prediction; `python -m benchmarks.memory` has them too, for the sizes it knows."""
    parser.add_argument("--model", default="base", choices=tuple(sizes), help="size (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="clips per step (default: %(default)s)")
    parser.add_argument(
        "--mask-ratio", type=float, default=0.9, help="share of tokens hidden from the encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--decoder-mask-ratio",
        type=float,
        default=0.5,
        help="share of tokens that are not decoded; 0 for no decoder mask (default: %(default)s)",
    )
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"), help="default: %(default)s")
    parser.add_argument("--picture", type=Path, help="also draw the prediction into this file, .svg or .png")
    parser.add_argument("--all", action="store_true", help="also compare activation checkpointing and mask ratios")
    parser.add_argument("--no-cache", action="store_true", help="do not reuse the predictions of earlier runs")


def add_env(commands: Any) -> None:
    """Add `env` to the commands."""
    env = commands.add_parser("env", help="list the installed packages, and what each device can run")
    env.set_defaults(run=_env)


def _memory(args: argparse.Namespace) -> None:
    from ..recipes.step_memory import CHECKPOINTED, OURS, MemoryReport, StepSettings, open_cache

    settings = StepSettings(args.model, args.mask_ratio, args.decoder_mask_ratio, args.precision, args.task)
    asked = CHECKPOINTED if args.activation_checkpointing else OURS
    report = MemoryReport(
        (OURS, CHECKPOINTED) if args.all else (asked,),
        settings,
        args.batch_size,
        cache=None if args.no_cache else open_cache(),
        masked=(asked,) if args.all else (),
    )
    print(printable_lines(report.text(args.picture)))


def _env(args: argparse.Namespace) -> None:
    import torch

    from ..environment import describe
    from ..models.attention import activate_flash_attention

    if torch.cuda.is_available():
        activate_flash_attention("cuda")  # as training does, so that the report says what training runs
    print(printable_lines(describe()))
