"""Run the tests with other versions of torch than the one installed, and the Triton that each comes with.

Run: python .ci/versions/torch.py [VERSION ...]      # default: the oldest that is supported

Each version gets a virtual environment of this Python in build/torch/VERSION, unless it has one. PyPI's wheels
for Linux bring CUDA along: about 3 GB are downloaded and 6 GB unpacked for each. Exits with 1 if a test fails.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST = "2.6.0"


def environment_with(version: str) -> Path:
    """The Python of the environment with torch `version`."""
    folder = ROOT / "build" / "torch" / version
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", f"torch=={version}", f"{ROOT}[test]"], check=True)
        (folder / "installed").touch()
    return python


def run_tests(python: Path) -> int:
    """The exit status of pytest, with the sources here, not those that were installed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [str(python), "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


def main(versions: list[str]) -> int:
    """1 if the tests fail with any version."""
    failed = [version for version in versions if run_tests(environment_with(version))]
    print(f"failed with torch {', '.join(failed)}" if failed else f"passed with torch {', '.join(versions)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [OLDEST]))
