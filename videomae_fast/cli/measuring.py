"""`videomae-fast bench`, `profile` and `env`."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness.run import SUITES

from ..models import CONFIGS


def add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench", help="measure ops, training steps, loading and memory against plain implementations"
    )
    bench.add_argument(
        "--suite", default="model", choices=(*SUITES, "all"), help="what to measure (default: %(default)s)"
    )
    bench.add_argument("--model", choices=tuple(CONFIGS), help="size (default: those of the suite)")
    bench.add_argument("--batch-size", type=int, help="clips (default: 128 on a GPU, few on a CPU), or videos to load")
    bench.add_argument("--rounds", type=int, help="timed samples of each (default: the suite's)")
    bench.add_argument("--published-repo", type=Path, metavar="PATH", help="also measure a checkout of the public code")
    bench.add_argument("--output", type=Path, help="folder of results (default: benchmarks/results)")
    bench.add_argument("--report", action="store_true", help="make README.md's tables and the plots from all results")
    bench.add_argument("--compare", type=Path, metavar="BASE", help="results, or a folder of them: fail if worse")
    bench.add_argument(
        "--threshold", type=float, default=0.05, help="how much slower is worse, as a share (default: %(default)s)"
    )
    bench.set_defaults(run=_bench)


def add_profile(commands: Any) -> None:
    profile = commands.add_parser("profile", help="where the memory of a training step goes, and which batch fits")
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


def _bench(args: argparse.Namespace) -> None:
    from benchmarks.harness.run import check_regressions, run_suites, write_report
    from benchmarks.harness.tables import format_results

    results = run_suites(
        SUITES if args.suite == "all" else (args.suite,),
        size=args.model,
        batch_size=args.batch_size,
        rounds=args.rounds,
        published_repo=args.published_repo,
        folder=args.output,
    )
    print(format_results(results))
    if args.report:
        write_report()
    if args.compare:
        check_regressions(results, args.compare, args.threshold)


def _profile(args: argparse.Namespace) -> None:
    from benchmarks.memory.report import profile_report

    case = args.model, args.batch_size, args.mask_ratio, args.decoder_mask_ratio, args.precision
    print(profile_report(*case, args.picture))


def _env(args: argparse.Namespace) -> None:
    from ..environment import describe

    print(describe())
