"""`videomae-fast check-data` and `transcode`: commands for videos on disk."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .._text import printable_lines
from ..data.readers import DEFAULT_READER, READERS
from ..data.sources.captions import CAPTIONS_HELP
from ..data.sources.instructions import INSTRUCTIONS_HELP
from ..data.sources.lists import DATA_HELP, FORMATS, LIST_FORMAT_HELP, LIST_HELP, ROOT_HELP


def add_check_data(commands: Any) -> None:
    """Add `check-data` to the commands."""
    check = commands.add_parser(
        "check-data",
        help="open every video; report bad ones, lengths, codecs, sizes and decoding speed",
        description="Open every video, decode one clip and the last frame. Print which videos are bad and why, their "
        "lengths, codecs and sizes, and how fast they decode. A video that crashes the decoder costs one worker "
        "process and is listed as bad.",
    )
    _add_source(check, DATA_HELP)
    check.add_argument(
        "--captions",
        action="store_true",
        help=f"the data has captions, and is a {CAPTIONS_HELP}, or a {INSTRUCTIONS_HELP}; check these, too",
    )
    check.add_argument("--reader", default=DEFAULT_READER, choices=READERS, help="video reader (default: %(default)s)")
    check.add_argument(
        "--clean", type=Path, metavar="FILE", help="new list file without the bad videos; not for a mixture or captions"
    )
    check.add_argument("--report", type=Path, metavar="FILE", help="table with one line per video, tab-separated")
    check.set_defaults(run=_check_data)


def add_transcode(commands: Any) -> None:
    """Add `transcode` to the commands."""
    transcode = commands.add_parser(
        "transcode",
        help="re-encode videos, smaller and faster to decode",
        description="Re-encode videos as H.264 that decodes fast, and write a list of the new videos. Called again, "
        "it continues where it stopped. A video that crashes the decoder costs one worker process and is left out.",
    )
    _add_source(transcode, LIST_HELP)
    transcode.add_argument("output", type=Path, help="folder for the new videos and their list, list.txt")
    transcode.add_argument(
        "--short-side",
        type=int,
        default=256,
        metavar="PIXELS",
        help="larger videos are scaled down to this shorter side (default: %(default)s)",
    )
    transcode.add_argument(
        "--gop",
        type=int,
        default=32,
        metavar="FRAMES",
        help="most frames from one key frame to the next (default: %(default)s)",
    )
    transcode.set_defaults(run=_transcode)


def _add_source(command: argparse.ArgumentParser, data_help: str) -> None:
    command.add_argument("data", help=data_help)
    command.add_argument("--root", metavar="FOLDER", help=ROOT_HELP)
    command.add_argument(
        "--list-format", default="auto", choices=FORMATS, help=f"{LIST_FORMAT_HELP} (default: %(default)s)"
    )
    command.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="worker processes; 0 uses the main process, and a video that crashes the decoder then ends the command "
        "(default: the number of cores, here %(default)s)",
    )


def _check_data(args: argparse.Namespace) -> None:
    from ..data.tools.check import check_data

    done = check_data(
        args.data,
        args.root,
        args.list_format,
        captioned=args.captions,
        reader=args.reader,
        workers=args.workers,
        clean=args.clean,
        progress=_show_progress,
    )
    print(printable_lines(done.summary()))
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
    print(printable_lines(done.summary()))


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} videos", end="" if done < total else "\n", file=sys.stderr, flush=True)
