"""`python -m benchmarks.memory`: the predicted memory of a training step, the published code beside ours."""

import argparse
import sys

from benchmarks.memory.report import memory_report
from videomae_fast.cli.memory import add_memory_options
from videomae_fast.recipes.step_memory import StepSettings


def main(argv: list[str] | None = None) -> int:
    """Print the report. 2 after one line on stderr for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add_memory_options(parser)
    args = parser.parse_args(argv)
    try:
        settings = StepSettings(args.model, args.mask_ratio, args.decoder_mask_ratio, args.precision)
        options = {"everything": args.all, "cached": not args.no_cache, "picture": args.picture}
        print(memory_report(settings, args.batch_size, **options))
    except (ValueError, ImportError, OSError) as error:
        print(f"python -m benchmarks.memory: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
