"""Compile every kernel with the oldest and the newest Triton, and compare with the bounds of kernels.md.

    python .ci/versions/triton.py [VERSION ...]      # default: the two in VERSIONS

Each version is installed by pip into a temporary folder beside the torch of this Python, and removed again; about
250 MB are downloaded and 1 GB is unpacked for each. Exits with 1 if a kernel exceeds a bound.
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2] / "tests" / "aot")  # not this folder, whose names hide those of packages

from table import FILE, compile_target, difference, rows  # noqa: E402

VERSIONS = ("3.2.0", "3.9.0")  # what torch 2.6, the oldest that is supported, comes with; the newest release
# The oldest Triton knows no other targets in full. Each compiles every kernel, at the sizes of one of the two models:
# test_aot.py has both for all targets.
TARGETS = {"sm_80": "ViT-B", "sm_90": "ViT-g"}


def install(version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, f"triton=={version}"], check=True)


def main(versions: list[str]) -> int:
    """Print what each version and target violates; the exit status is 1 if there is any."""
    failures = 0
    for version in versions:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
            install(version, Path(folder))
            folders = [Path(folder)] * len(TARGETS)
            reports = pool.map(compile_target, TARGETS, folders, TARGETS.values())  # each in a process of its own
            for (target, model), report in zip(TARGETS.items(), reports, strict=True):
                if report["triton"] != version:
                    raise RuntimeError(f"asked for Triton {version}, compiled with {report['triton']}")
                found = difference(FILE.read_text(encoding="utf-8"), version, rows(report), model)
                print(f"Triton {version}, {target}, {model}: {found or 'within the bounds of kernels.md'}", flush=True)
                failures += bool(found)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
