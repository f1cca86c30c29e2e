"""Run the benchmark suites, keep their figures, compare them with earlier ones.

The suites are tests (benchmarks/), which pytest-benchmark times. Every implementation is checked before it is timed,
so a failed test is a wrong result. Then nothing at all is written, unless the run has a journal: it keeps what passed.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.align.sizes import ALIGN_SIZES
from benchmarks.harness.journal import read_journal
from benchmarks.harness.results import PREDICTED, Results, collect, compare, load_base, load_earlier, load_newest, save
from benchmarks.harness.tables import format_report, shown
from videomae_fast._optional import require
from videomae_fast.models import CONFIGS

ROOT = Path(__file__).resolve().parents[2]  # the checkout
SUITES = ("ops", "model", "finetune", "align", "contrast", "caption", "loader", "evaluate", "memory", "roofline")
NO_TESTS = 5  # pytest's exit status
START, END = "<!-- results -->", "<!-- end of results -->"


class BenchmarkError(RuntimeError):
    """A benchmark failed."""


class DisagreementError(BenchmarkError):
    """Implementations that should be compared do not compute the same."""


class TimeLimitError(BenchmarkError):
    """Time ran out; what was measured until then was recorded."""


class RegressionError(BenchmarkError):
    """Figures are worse than the figures they are compared with."""


def run_suites(
    suites: Sequence[str],
    *,
    size: str | None = None,
    batch_size: int | None = None,
    rounds: int | None = None,
    published_repo: Path | None = None,
    folder: Path | None = None,
    journal: Path | None = None,
    time_limit: float | None = None,
) -> Results:
    """Run suites in a process of their own, save the results below `folder` (benchmarks/results) and return them.

    An option that is None takes the default of its suite. Without `journal`, a red run leaves nothing. With it, what
    has passed is saved even if something fails or `time_limit` (seconds) ends the run, and the next run with the same
    journal goes on from there.

    DisagreementError if a check failed, BenchmarkError if anything else failed; both name the tests. TimeLimitError if
    time ran out. FileNotFoundError if a suite does not exist.
    """
    for suite in suites:
        if suite not in SUITES:
            raise ValueError(f"suite must be one of {SUITES}, got '{suite}'")
        sizes = (*ALIGN_SIZES,) if suite == "align" else (*CONFIGS, "tiny")
        if size is not None and size not in sizes:
            raise ValueError(f"size must be one of {sizes} for the suite {suite}, got '{size}'")
        if not (ROOT / "benchmarks" / suite).is_dir():
            raise FileNotFoundError(f"{ROOT} has no benchmarks/{suite}: benchmarks run in a checkout of the repository")
    require("pytest_benchmark")
    repo = published_repo and published_repo.resolve()  # the suites run elsewhere
    options = {"size": size, "batch-size": batch_size, "rounds": rounds, "published-repo": repo}
    with tempfile.TemporaryDirectory() as scratch:
        kept, outcome = (journal or Path(scratch, "journal.jsonl")).resolve(), Path(scratch, "outcome.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
        command += ["--benchmark-quiet", f"--journal={kept}", f"--junitxml={outcome}"]
        command += [f"--{name}={value}" for name, value in options.items() if value is not None]
        command += [f"benchmarks/{suite}" for suite in suites]
        status = _run(command, time_limit)
        failure = _failure(outcome, status) if status != 0 and not _is_complete(kept, journal, status) else None
        if failure is not None and journal is None:
            raise failure
        results = collect(read_journal(kept)) if kept.exists() else None
    if results is not None and results["records"]:
        save(results, folder or ROOT / "benchmarks" / "results")
    if failure is not None:
        raise failure
    assert results is not None
    return results


def _run(command: Sequence[str], time_limit: float | None) -> int | None:
    """The exit status of a command; None if it was ended at its time limit, with all processes that it started."""
    # pytest-benchmark times nothing in what it takes for a worker of pytest-xdist.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=sys.stderr.fileno(), env=environment, start_new_session=time_limit is not None
    )
    try:
        return process.wait(time_limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a compiler may not listen to anything gentler
        process.wait()
        return None
    except BaseException:
        process.kill()
        raise


def _is_complete(kept: Path, journal: Path | None, status: int | None) -> bool:
    """Whether pytest ran nothing because the journal has it all."""
    return journal is not None and status == NO_TESTS and kept.exists() and bool(read_journal(kept)["tests"])


def _failure(outcome: Path, status: int | None) -> BenchmarkError:
    """The error for a failed run: it names every failed test, with the reason."""
    failures = []
    for case in ElementTree.parse(outcome).iter("testcase") if outcome.exists() else ():
        for problem in (*case.findall("failure"), *case.findall("error")):
            # "collection failure" says nothing; pytest marks the lines of an error with E.
            lines = re.findall(r"^E +(.*)$", problem.text or "", re.MULTILINE) or [problem.get("message", "")]
            failures.append((case.get("name"), lines[0]))
    text = "; ".join(f"{name}: {error}" for name, error in failures)
    checks = ("AssertionError", "benchmarks.harness.run.DisagreementError")
    if failures and all(error.startswith(checks) for _, error in failures):
        return DisagreementError(f"implementations disagree: {text}")
    if status is None:
        return TimeLimitError("time ran out: the next run with this journal goes on from here")
    return BenchmarkError(f"benchmarks failed: {text or f'pytest exited with {status}'}")


def check_regressions(results: Results, base: Path, threshold: float = 0.05) -> None:
    """RegressionError, naming each, if `results` are worse than `base`: a file, or the newest that fits in a folder."""
    worse = compare(results, load_base(base, results), threshold)
    if worse:
        raise RegressionError(f"{len(worse)} regressions against {base}:\n  " + "\n  ".join(worse))


def results_section(root: Path) -> str:
    """What docs/benchmarks.md shows between its two markers: the newest results of every device."""
    folder = root / "benchmarks" / "results"
    newest = load_newest(folder)
    predicted = next((results for results in newest if results["device"] == PREDICTED), None)
    earlier = predicted and load_earlier(folder, predicted, "roofline")
    return f"{START}\n\n{format_report(map(shown, newest), earlier)}\n\n"


def write_report(root: Path = ROOT) -> None:
    """Make the tables of docs/benchmarks.md and the plots in docs/images anew from the results."""
    from benchmarks.harness.plots import save_memory_bars, save_plots

    page, images = root / "docs" / "benchmarks.md", root / "docs" / "images"
    text = page.read_text(encoding="utf-8")
    page.write_text(text[: text.index(START)] + results_section(root) + text[text.index(END) :], encoding="utf-8")
    for plot in images.glob("*.svg"):
        plot.unlink()
    newest = load_newest(root / "benchmarks" / "results")
    save_plots(map(shown, newest), images)
    for results in newest:
        if results["device"] == PREDICTED:
            save_memory_bars(results, images / "memory.svg")
