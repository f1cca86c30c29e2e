"""`videomae-fast memory` and `env`: what fits on a machine, and what it has."""

import argparse
from pathlib import Path
from typing import Any

from ..models import CONFIGS


def add_memory(commands: Any) -> None:
    profile = commands.add_parser("memory", help="where the memory of a training step goes, and which batch fits")
    profile.add_argument("--model", default="base", choices=tuple(CONFIGS), help="size (default: %(default)s)")
    profile.add_argument("--batch-size", type=int, default=128, help="clips per step (default: %(default)s)")
    profile.add_argument("--mask-ratio", type=float, default=0.9, help="share of tokens hidden (default: %(default)s)")
    profile.add_argument(
        "--decoder-mask-ratio", type=float, default=0.5, help="share of tokens not decoded (default: %(default)s)"
    )
    profile.add_argument("--precision", default="bf16", choices=("bf16", "fp32"), help="default: %(default)s")
    profile.add_argument("--picture", type=Path, help="also draw it, as .svg or .png")
    profile.set_defaults(run=_profile)


def add_env(commands: Any) -> None:
    """Takes no options."""
    env = commands.add_parser("env", help="what is installed, and what each device runs")
    env.set_defaults(run=_env)


def _profile(args: argparse.Namespace) -> None:
    from benchmarks.memory.report import profile_report

    case = args.model, args.batch_size, args.mask_ratio, args.decoder_mask_ratio, args.precision
    print(profile_report(*case, args.picture))


def _env(args: argparse.Namespace) -> None:
    from ..environment import describe

    print(describe())
