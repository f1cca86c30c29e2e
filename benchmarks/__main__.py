"""`python -m benchmarks`: measure ops, training steps, loading, evaluation and memory against plain implementations."""

import argparse
import sys
from pathlib import Path

from benchmarks.align.sizes import PUBLISHED_SIZES
from benchmarks.harness.run import SUITES, BenchmarkError, TimeLimitError, check_regressions, run_suites, write_report
from benchmarks.harness.tables import format_results
from videomae_fast.models import CONFIGS

TIMED_OUT = 124  # exit status


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--suite", choices=(*SUITES, "all"), help="what to measure (default: model; with --report nothing)"
    )
    sizes = tuple(dict.fromkeys((*CONFIGS, *PUBLISHED_SIZES)))
    parser.add_argument("--model", choices=sizes, help="size (default: the suite's sizes; 1b and 6b are of align only)")
    parser.add_argument("--batch-size", type=int, help="clips (default: 128 on a GPU, few on a CPU), or videos to load")
    parser.add_argument("--rounds", type=int, help="timed samples of each implementation (default: the suite's)")
    parser.add_argument(
        "--published-repo", type=Path, metavar="PATH", help="also measure a checkout of the public code"
    )
    parser.add_argument("--output", type=Path, help="folder of results (default: benchmarks/results)")
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="write what each test measured there at once; keep what passed, and go on from there the next time",
    )
    parser.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="end the suites after this time; needs --journal"
    )
    parser.add_argument(
        "--report", action="store_true", help="make the tables of docs/benchmarks.md and its plots from all results"
    )
    parser.add_argument("--compare", type=Path, metavar="BASE", help="results, or a folder of them: fail if worse")
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="how much slower is worse, as a share (default: %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Run the suites, print their tables, and make the report or compare if asked to."""
    if args.time_limit is not None and args.journal is None:
        raise ValueError("--time-limit needs --journal FILE: a run that is cut off keeps only what its journal has")
    if args.report and not args.suite:
        if args.compare:
            raise ValueError("--compare needs new results: name a --suite beside --report")
        write_report()
        return
    results = run_suites(
        SUITES if args.suite == "all" else (args.suite or "model",),
        size=args.model,
        batch_size=args.batch_size,
        rounds=args.rounds,
        published_repo=args.published_repo,
        folder=args.output,
        journal=args.journal,
        time_limit=args.time_limit,
    )
    print(format_results(results))
    if args.report:
        write_report()
    if args.compare:
        check_regressions(results, args.compare, args.threshold)


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; or 2 after one line on stderr for what a user can mend, a failed benchmark or a regression; 124, as of the
        command `timeout`, if time ran out. Other errors keep their traceback.
    """
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except (ValueError, ImportError, OSError, BenchmarkError) as error:
        print(f"python -m benchmarks: error: {error}", file=sys.stderr)
        return TIMED_OUT if isinstance(error, TimeLimitError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
