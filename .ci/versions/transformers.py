"""Run the tests of interop with other versions of transformers than the one installed.

Run: python .ci/versions/transformers.py [FOLDER] [VERSION …]

Each version is installed into FOLDER/VERSION (default: build/transformers) unless it is there, without numpy and torch,
which stay the environment's. The default versions are the oldest supported, one that loses biases, and one between.
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("4.45.2", "4.57.1", "5.12.1")
TESTS = ("tests/interop",)
OURS = ("numpy", "torch")


def install(version: str, folder: Path) -> None:
    """transformers and what it needs, in the versions it needs."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target", str(folder)]
    subprocess.run([*pip, "--no-deps", f"transformers=={version}"], check=True)
    (found,) = (d for d in distributions(path=[str(folder)]) if d.metadata["Name"] == "transformers")
    needed = [line for line in found.requires or () if "extra ==" not in line and not line.startswith(OURS)]
    subprocess.run([*pip, *needed], check=True)


def run_tests(folder: Path) -> int:
    """The exit status of pytest."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    check = "import sys, numpy, transformers; print('transformers', transformers.__version__, transformers.__file__)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


def main() -> int:
    """1 if the tests fail with any version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "transformers")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    args = parser.parse_args()
    failed = []
    for version in args.versions:
        folder = args.folder.resolve() / version
        if not (folder / "transformers").is_dir():
            install(version, folder)
        if run_tests(folder):
            failed.append(version)
    print(f"failed with transformers {', '.join(failed)}" if failed else f"passed with {', '.join(args.versions)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
