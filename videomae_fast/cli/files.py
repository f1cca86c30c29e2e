"""`videomae-fast check-data` and `transcode`: videos on disk."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..data import DEFAULT_READER


def add_check_data(commands: Any) -> None:
    check = commands.add_parser("check-data", help="read every video of a list: bad ones, durations, codecs, speed")
    _add_list(check)
    check.add_argument("--reader", default=DEFAULT_READER, help="video reader (default: %(default)s)")
    check.add_argument("--clean", type=Path, help="also write the list without the bad videos to this file")
    check.add_argument("--report", type=Path, help="also write a line for every video to this file")
    check.set_defaults(run=_check_data)


def add_transcode(commands: Any) -> None:
    transcode = commands.add_parser("transcode", help="encode the videos of a list again, small and quick to decode")
    _add_list(transcode)
    transcode.add_argument("output", type=Path, help="folder of the new videos and their list; continued if there")
    transcode.add_argument("--short-side", type=int, default=256, help="in pixels (default: %(default)s)")
    transcode.add_argument("--gop", type=int, default=32, help="frames between two key frames (default: %(default)s)")
    transcode.set_defaults(run=_transcode)


def _add_list(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", help="annotation file, folder of videos, tar shard, or mixture (.json)")
    command.add_argument("--root", help="prefix of relative paths (default: the folder of the list)")
    command.add_argument("--list-format", default="auto", help="auto, v2, v1 or paths (default: %(default)s)")
    command.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; 0 uses this one, which a video that crashes its decoder then ends (default: %(default)s)",
    )


def _check_data(args: argparse.Namespace) -> None:
    from ..data.tools.check import check_data

    done = check_data(
        args.data,
        args.root,
        args.list_format,
        reader=args.reader,
        workers=args.workers,
        clean=args.clean,
        progress=_show_progress,
    )
    print(done.summary())
    if args.report:
        done.write(args.report)


def _transcode(args: argparse.Namespace) -> None:
    from ..data.tools.transcode import transcode

    done = transcode(
        args.data,
        args.output,
        args.root,
        args.list_format,
        short_side=args.short_side,
        gop=args.gop,
        workers=args.workers,
        progress=_show_progress,
    )
    print(done.summary())


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} videos", end="" if done < total else "\n", file=sys.stderr, flush=True)
