"""`videomae-fast memory`: what a training step takes on a GPU, and what would fit, without a GPU."""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from .._text import printable_lines
from ..memory import CARDS
from ..models import CONFIGS
from ..models.families import SIZES

N = TypeVar("N", int, float)
RECIPES = ("pretrain", "finetune", "contrast", "caption")
# Options of some recipes alone; those of a recipe's own command have its names and its defaults.
TOWER = ("image_size", "patch_size", "tubelet_size", "train")  # of contrast and caption, as the next two
CLIPS = ("frames", "card")
CONTRAST = ("text_model", "freeze_text")
CAPTION = ("config", "language_model", "lora_rank")


def add_memory(commands: Any) -> None:
    """Add `memory` to the commands."""
    memory = commands.add_parser(
        "memory",
        help="predict the memory of a training step and the largest batch for a GPU, without a GPU",
        description="Predict where the memory of a training step goes on a GPU, and the largest batch that fits; of "
        "--recipe contrast, the longest clip, too. It needs no GPU. `python -m benchmarks.memory` shows the published "
        "code beside it.",
    )
    memory.add_argument(
        "--recipe",
        default="pretrain",
        choices=RECIPES,
        help="whose step: of pre-training with masks, of fine-tuning on all tokens, of contrastive pre-training, or of "
        "training a language model's answers (default: %(default)s)",
    )
    add_memory_options(memory, SIZES, ratio=str)
    memory.add_argument("--activation-checkpointing", action="store_true", help="recompute every block in backward")
    tower = memory.add_argument_group("of --recipe contrast and caption")
    tower.add_argument("--frames", help="frames of a clip; of contrast also several: 16,64,256 (default: 16)")
    tower.add_argument("--card", choices=tuple(CARDS), help="the GPU (default: A100-80)")
    tower.add_argument("--image-size", type=int, help="height and width of a clip in pixels (default: 224)")
    tower.add_argument("--patch-size", type=int, help="height and width of a token (default: of the model)")
    tower.add_argument("--tubelet-size", type=int, help="frames of a token (default: of the model)")
    tower.add_argument("--train", help="of the video tower: all, last:K, head (contrast) or none (default: all; none)")
    contrast = memory.add_argument_group("of --recipe contrast")
    contrast.add_argument("--text-model", help="folder of a text encoder of transformers (default: BERT-base)")
    contrast.add_argument("--freeze-text", action="store_true", default=None, help="train nothing of the text tower")
    caption = memory.add_argument_group("of --recipe caption")
    caption.add_argument(
        "--config", type=Path, metavar="FILE", help="settings of caption; options that are given here replace them"
    )
    caption.add_argument(
        "--language-model",
        metavar="FOLDER",
        help="of a causal language model of transformers; only its config.json is read",
    )
    caption.add_argument("--lora-rank", type=int, metavar="N", help="of adapters in it; 0: none (default: 0)")
    # Defaults are those of the recipe.
    unset = dict.fromkeys(("model", "precision", "batch_size", "mask_ratio", "decoder_mask_ratio", "all"))
    memory.set_defaults(run=_memory, **unset)


def add_memory_options(
    parser: argparse.ArgumentParser, sizes: Collection[str] = CONFIGS, ratio: Callable[[str], Any] = float
) -> None:
    """Add the options of a memory prediction.

    `python -m benchmarks.memory` has them too, for the sizes it knows, and with one mask ratio.
    """
    parser.add_argument("--model", default="base", choices=tuple(sizes), help="size (default: base)")
    parser.add_argument("--batch-size", type=int, default=128, help="clips per step (default: 128)")
    parser.add_argument(
        "--mask-ratio", type=ratio, default=0.9, help="share of tokens hidden from the encoder (default: 0.9)"
    )
    parser.add_argument(
        "--decoder-mask-ratio",
        type=float,
        default=0.5,
        help="share of tokens that are not decoded; 0 for no decoder mask (default: 0.5)",
    )
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"), help="default: bf16")
    parser.add_argument("--picture", type=Path, help="also draw the prediction into this file, .svg or .png")
    parser.add_argument("--all", action="store_true", help="also compare activation checkpointing and mask ratios")
    parser.add_argument("--no-cache", action="store_true", help="do not reuse the predictions of earlier runs")


def _memory(args: argparse.Namespace) -> None:
    report = {"contrast": _contrast, "caption": _caption}.get(args.recipe, _of_one_clip_size)
    print(printable_lines(report(args)))


def _of_one_clip_size(args: argparse.Namespace) -> str:
    from ..recipes.step_memory import CHECKPOINTED, OURS, MemoryReport, StepSettings, open_cache

    for names, recipes in ((CLIPS + TOWER, "contrast or caption"), (CONTRAST, "contrast"), (CAPTION, "caption")):
        _refuse(args, names, f"is of --recipe {recipes}, got --recipe {args.recipe}")
    given: dict[str, Any] = {name: getattr(args, name) for name in ("model", "precision", "decoder_mask_ratio")}
    given["mask_ratio"] = _one_number(args, "mask_ratio", float)
    given = {"model": "base"} | {name: value for name, value in given.items() if value is not None}
    settings = StepSettings(recipe=args.recipe, **given)
    asked = CHECKPOINTED if args.activation_checkpointing else OURS
    report = MemoryReport(
        (OURS, CHECKPOINTED) if args.all else (asked,),
        settings,
        128 if args.batch_size is None else args.batch_size,
        cache=None if args.no_cache else open_cache(),
        masked=(asked,) if args.all else (),
    )
    return report.text(args.picture)


def _contrast(args: argparse.Namespace) -> str:
    from ..recipes.contrast_memory_report import LongestClips
    from ..recipes.step_memory import open_cache

    _refuse(args, ("decoder_mask_ratio", "picture", "all"), "does not go with --recipe contrast")
    _refuse(args, CAPTION, "is of --recipe caption, got --recipe contrast")
    given = {name: getattr(args, name) for name in ("model", "precision", *TOWER, *CONTRAST)}
    options = {"precision": "bf16"} | {name: value for name, value in given.items() if value is not None}
    return LongestClips(
        options | {"activation_checkpointing": args.activation_checkpointing},
        _numbers("16" if args.frames is None else args.frames, "frames", int),
        _numbers("0.75" if args.mask_ratio is None else args.mask_ratio, "mask_ratio", float),
        args.card or "A100-80",
        args.batch_size,
        None if args.no_cache else open_cache(),
    ).text()


def _caption(args: argparse.Namespace) -> str:
    from ..recipes.caption_config import CaptionConfig
    from ..recipes.caption_memory_report import CaptionMemory
    from ..recipes.step_memory import open_cache

    _refuse(args, ("decoder_mask_ratio", "all"), "does not go with --recipe caption")
    _refuse(args, CONTRAST, "is of --recipe contrast, got --recipe caption")
    options = {} if args.config is None else CaptionConfig.read_options(args.config)
    if options.get("precision", "auto") == "auto":
        options["precision"] = "bf16"  # as on a GPU
    names = ("model", "precision", "batch_size", "language_model", "lora_rank", *TOWER)
    given: dict[str, Any] = {name: getattr(args, name) for name in names}
    given |= {"mask_ratio": _one_number(args, "mask_ratio", float), "num_frames": _one_number(args, "frames", int)}
    given["activation_checkpointing"] = args.activation_checkpointing or None
    options |= {name: value for name, value in given.items() if value is not None}
    cache = None if args.no_cache else open_cache()
    return CaptionMemory(CaptionConfig.from_options(**options), args.card or "A100-80", cache).text(args.picture)


def _refuse(args: argparse.Namespace, names: Collection[str], why: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"{name} {why}")


def _one_number(args: argparse.Namespace, name: str, kind: type[N]) -> N | None:
    if getattr(args, name) is None:
        return None
    found = _numbers(getattr(args, name), name, kind)
    if len(found) > 1:
        raise ValueError(f"{name} of --recipe {args.recipe} must be one number, got '{getattr(args, name)}'")
    return found[0]


def _numbers(text: str, name: str, kind: type[N]) -> list[N]:
    """The numbers of a list such as 16,64,256, each once."""
    try:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name} must be {what} with commas between, got '{text}'") from error
