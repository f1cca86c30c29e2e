"""`videomae-fast convert`: weights on disk."""

import argparse
from pathlib import Path
from typing import Any


def add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert", help="weights between the published layout, which is ours, and Hugging Face's"
    )
    convert.add_argument("source", type=Path, help="a .pth or .safetensors file, or a folder of from_pretrained")
    convert.add_argument("target", type=Path, help="a file or folder that does not exist yet")
    convert.add_argument("--to", required=True, choices=("published", "huggingface"), help="layout of the target")
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from ..interop import convert

    print(convert(args.source, args.target, args.to))
