"""The `videomae-fast` command: train and evaluate models, extract features, convert weights, check videos."""

import argparse
import difflib
import io
import sys
from typing import Any, NoReturn

from .._text import printable, printable_lines
from ..data import UnreadableVideosError
from ..engine import NonFiniteLossError
from .caption import add_caption, add_describe
from .data import add_check_data, add_transcode
from .machine import add_env
from .memory import add_memory
from .runs import (
    add_align,
    add_contrast,
    add_distil,
    add_evaluate,
    add_features,
    add_finetune,
    add_gallery,
    add_pretrain,
)
from .weights import add_convert


class _Parser(argparse.ArgumentParser):
    """Errors are one line, not dozens of options with a line below; and no option may be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse, but an unknown argument is an error of the command that does not have it."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f': {close[0]}?' if close else ''}")
        return found, unknown


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = _Parser(prog="videomae-fast", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_pretrain(commands)
    add_align(commands)
    add_contrast(commands)
    add_caption(commands)
    add_describe(commands)
    add_finetune(commands)
    add_distil(commands)
    add_evaluate(commands)
    add_features(commands)
    add_gallery(commands)
    add_memory(commands)
    add_convert(commands)
    add_check_data(commands)
    add_transcode(commands)
    add_env(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; None reads sys.argv.

    Returns:
        The exit status: 0, or 2 after an error that the user can fix, which is one line on stderr. Other errors keep
        their traceback. A character that the console's encoding lacks is printed as its escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python sets stderr
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, ImportError, OSError, NonFiniteLossError, UnreadableVideosError) as error:
        print(f"videomae-fast {args.command}: error: {printable_lines(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"videomae-fast {args.command}: interrupted", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    return 0
