"""`videomae-fast caption` and `describe`: train a language model's answers about videos, and ask it."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from .._files import atomic_write, disk_errors
from .._text import printable, printable_lines
from ..data import MissingVideo, UnreadableVideosError
from ..engine.precision import PRECISIONS
from ..recipes import caption as captioning
from ..recipes import caption_demo
from .runs import add_recipe, read_config, show_curves, show_losses, show_weights


def add_caption(commands: Any) -> None:
    """Add `caption` to the commands; its options are the options of CaptionConfig."""
    help = "train a connector from a video tower to a language model, and more of both, on captions"
    demo = "a small language model on the clips and the video tower of a run of contrast --demo, which --init names"
    add_recipe(commands, "caption", help, captioning.CaptionConfig, _caption, demo=True, demo_help=demo)


def add_describe(commands: Any) -> None:
    """Add `describe` to the commands."""
    command = commands.add_parser(
        "describe",
        help="say what videos show, by a run of caption",
        description="Say what videos show, by a run of caption. The answer about one video is printed as it comes. "
        "Videos that cannot be read are named; the others are described, and the exit status is 2.",
    )
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="file of a video or an image")
    command.add_argument("--init", required=True, help="a run of caption, or one of its checkpoints")
    command.add_argument("--prompt", default="", help="the question (default: that of the run)")
    command.add_argument("--language-model", default="", metavar="FOLDER", help="the language model, if it has moved")
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON lines of path, start, end (seconds) and text, not printed",
    )
    numbers = (
        ("--max-new-tokens", 64, "most tokens of an answer"),
        ("--batch-size", 8, "videos at a time"),
        ("--workers", 0, "processes that decode videos; 0 decodes in this one"),
    )
    for name, default, text in numbers:
        command.add_argument(name, type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    command.add_argument("--precision", default="auto", choices=PRECISIONS, help="auto: bf16 on a GPU, fp32 on a CPU")
    command.set_defaults(run=_describe)


def _caption(args: argparse.Namespace) -> None:
    config = read_config(args, captioning.CaptionConfig)
    if hasattr(args, "demo"):
        config = read_config(args, captioning.CaptionConfig, caption_demo.from_contrast(config.run.init))
        config = caption_demo.with_language_model(config, lambda line: print(printable(line)))
    result = captioning.caption(config)
    if hasattr(args, "demo") and result.finished:
        for line in caption_demo.report(config, result):
            print(line)
    if result.is_main_process:
        output = Path(config.run.output)
        show_losses(output, result.step)
        show_weights(result, "weights without the language model")
        show_curves(output)


def _describe(args: argparse.Namespace) -> None:
    from ..recipes.describe import Describer, describe

    describer = Describer(args.init, args.prompt, args.language_model, args.precision)
    streams = args.output is None and len(args.videos) == 1
    numbers = {"max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size, "workers": args.workers}
    missing = 0
    with _opened(args.output) as file:
        for each in describe(describer, args.videos, **numbers, stream=_show_words if streams else None):
            if isinstance(each, MissingVideo):
                missing += 1
                print(f"cannot be read: {printable(each.path)}: {each.reason}", file=sys.stderr)
            elif file is not None:
                file.write(json.dumps(asdict(each), ensure_ascii=False) + "\n")
            elif not streams:
                print(f"{printable(each.path)}: {printable(each.text)}", flush=True)
    if args.output is not None:
        print(f"what {len(args.videos) - missing} videos show: {printable(args.output)}")
    if missing:
        raise UnreadableVideosError(f"{missing} of {len(args.videos)} videos cannot be read")


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[str] | None]:
    """A file that appears at the end, whole; None without a path."""
    if path is None:
        yield None
        return
    with disk_errors(path), atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
        yield file


def _show_words(words: str) -> None:
    print(printable_lines(words), end="" if words else "\n", flush=True)
