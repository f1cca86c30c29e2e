"""Runs Python's command lines in processes that start at once: forks of one that has imported everything already.

A process that imports torch, Accelerate and transformers takes longer to start than most tests take to run. Run as a
module, this file is the process that is forked: it does nothing but imports before.
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORTED = (  # what the test processes import; one that is not installed is missed by the process that needs it
    "tests.recipes.captioning",
    "tests.recipes.paired",
    "tests.recipes.aligned",
    "tests.models.distributed",
    "tests.models.dual_distributed",
    "videomae_fast.cli",
    "matplotlib.backends.backend_agg",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


def run_forks(
    commands: Sequence[Sequence[str]], variables: Sequence[Mapping[str, str]], timeout: float = 300
) -> list[subprocess.CompletedProcess[str]]:
    """Run processes side by side until all have ended. If one fails, the others are killed, as torchrun does.

    Args:
        commands: of each process, as after `python`: "-m", a module and its arguments, or "-c", code and its arguments.
        variables: of each process, added to the environment of this one.
        timeout: seconds, after which all are killed.

    Raises:
        TimeoutError: with what the processes wrote to stderr.
    """
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with tempfile.TemporaryDirectory() as name:
        files = [(f"{name}/out{number}", f"{name}/err{number}") for number in range(len(commands))]
        starts = [
            {"command": list(command), "environment": os.environ | own, "files": pair}
            for command, own, pair in zip(commands, variables, files, strict=True)
        ]
        process = _template()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"starts": starts, "timeout": timeout}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"the process that is forked ended with exit status {process.wait()}"
        statuses = json.loads(answer)
        texts = [[Path(path).read_text() for path in pair] for pair in files]
    if statuses is None:
        raise TimeoutError(f"not at an end after {timeout} s:\n" + "\n".join(err for _, err in texts))
    return [
        subprocess.CompletedProcess(list(command), status, out, err)
        for command, status, (out, err) in zip(commands, statuses, texts, strict=True)
    ]


@functools.cache
def _template() -> subprocess.Popen[str]:
    """It ends when this process does, which closes its stdin."""
    # In front of the path goes what the tests themselves import: transformers may lie outside site-packages.
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), *sys.path]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.forks"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


# ---- the process that is forked


def _serve() -> None:
    """Read groups of processes to start, one of JSON a line; answer each with a line of exit statuses."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    while line := requests.readline():
        request = json.loads(line)
        children = []
        for start in request["starts"]:
            if not (child := os.fork()):
                os.setpgid(0, 0)
                requests.close(), answers.close()
                _become(**start)
                return
            with contextlib.suppress(PermissionError):  # whoever of both is first
                os.setpgid(child, child)
            children.append(child)
        print(json.dumps(_wait(children, request["timeout"])), file=answers, flush=True)


def _become(command: list[str], environment: dict[str, str], files: list[str]) -> None:
    """What Python does at a start, with what it was started with."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    kind, program, *arguments = command
    sys.argv = [kind, *arguments]
    if kind == "-m":
        warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)


def _wait(children: list[int], timeout: float) -> list[int] | None:
    """Their exit statuses, negative for a signal; None if time ran out."""
    found: dict[int, int] = {}
    end = time.monotonic() + timeout
    while len(found) < len(children) and time.monotonic() < end:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            found[child] = os.waitstatus_to_exitcode(status)
            if found[child]:
                break
        else:
            time.sleep(0.01)
    late = len(found) < len(children) and not any(found.values())
    for child in set(children) - found.keys():
        os.killpg(child, signal.SIGKILL)
        found[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if late else [found[child] for child in children]


if __name__ == "__main__":
    _serve()
