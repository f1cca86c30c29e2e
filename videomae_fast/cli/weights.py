"""`videomae-fast convert`: the command for weights on disk."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .._text import printable


def add_convert(commands: Any) -> None:
    """Add `convert` to the commands."""
    convert = commands.add_parser(
        "convert",
        help="convert weights between the published layout, which this library uses, and Hugging Face's; join shards",
    )
    convert.add_argument("source", type=Path, help="a .pth or .safetensors file, or a folder of weights or shards")
    convert.add_argument("target", type=Path, help="a file or folder that does not exist yet")
    convert.add_argument("--to", required=True, choices=("published", "huggingface"), help="layout of the target")
    size = convert.add_argument_group(
        "clip size of the model, for --to huggingface",
        "Weights do not store it. Default: from the config.json beside the weights, if there is one. Published "
        "pre-training weights have 16 and 224.",
    )
    size.add_argument("--num-frames", type=int, help="frames of a clip")
    size.add_argument("--image-size", type=int, help="height and width of a clip in pixels")
    names = "file of class names, for a classifier and --to huggingface: one per line, or a JSON list. Default: those "
    names += "beside the weights, if there are any"
    convert.add_argument("--classes", type=Path, help=names)
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from ..interop.conversion import convert
    from ..interop.settings import clip_size

    size = {"num_frames": args.num_frames, "image_size": args.image_size}
    written = convert(args.source, args.target, args.to, **size, classes=args.classes)
    if args.to == "huggingface":
        clip = clip_size(args.source, **size)
        side = clip.image_size
        print(f"clip size: {clip.num_frames} frames of {side}x{side} pixels ({clip.origin})", file=sys.stderr)
    print(printable(written))
