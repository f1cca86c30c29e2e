"""Results of the benchmarks: from the journal of a run to our files, and a comparison of new with old.

    benchmarks/results/<device>/<commit>.json     figures measured on one device at one commit
    benchmarks/results/predicted/<commit>.json    figures that depend on no machine

A file names device, driver, versions, threads, commit and date, and holds one record per (suite, name, case, variant).
A record that could not be measured has `not_run`, the reason, in place of figures.
"""

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Results = dict[str, Any]
Key = tuple[str, str, str, str]
PREDICTED = "predicted"  # in place of a device, for figures that depend on none
NEVER_MORE = (
    *("peak_mib", "total_mib", "kernel_launches", "syncs", "bytes_to_device_per_clip"),
    *("mib_per_clip", "tflop", "tflop_per_clip", "gb", "frames_read"),
)
ROUNDING = 1e-3  # relative: an allocator's rounding


def key(record: Record) -> Key:
    """What a record is about: (suite, name, case, variant)."""
    return record["suite"], record["name"], record["case"], record["variant"]


def by_case(records: Iterable[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    """(name, case, records) of each run of consecutive records with the same name and case."""
    for (name, case), rows in groupby(records, lambda record: (record["name"], record["case"])):
        yield name, case, list(rows)


def collect(journal: Mapping[str, Any]) -> Results:
    """Results from a journal (`journal.read_journal`). Samples of one key, taken in several rounds, are merged."""
    records: dict[Key, Record] = {}
    samples: dict[Key, list[float]] = {}
    for test in journal["tests"]:
        record = test["record"]
        records[key(record)] = record
        samples.setdefault(key(record), []).extend(test["seconds"])
    machine = journal["machine"]
    timed = [
        record
        if record["predicted"] or "not_run" in record
        else _with_times(record, samples[name], machine["copy_gb_per_s"])
        for name, record in records.items()
    ]
    device = PREDICTED if all(record["predicted"] for record in timed) else machine["device"]
    return {**machine, "device": device, "date": journal["date"], "records": timed}


def _with_times(record: Record, seconds: list[float], copy_gb_per_s: float | None) -> Record:
    cuts = statistics.quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else seconds * 9
    p20, p50, p80 = cuts[1], statistics.median(seconds), cuts[7]
    timed = {**record, "p20_ms": p20 * 1e3, "p50_ms": p50 * 1e3, "p80_ms": p80 * 1e3, "rounds": len(seconds)}
    if "clips" in record:
        timed["clips_per_s"] = record["clips"] / p50
    if "bytes" in record and copy_gb_per_s:
        timed["gb_per_s"] = record["bytes"] / p50 / 1e9
        timed["roofline"] = timed["gb_per_s"] / copy_gb_per_s
    return timed


def save(results: Results, folder: Path) -> list[Path]:
    """Write results below `folder`, predicted records to a file of their own. Returns the files written.

    An existing file of the same device and commit keeps its records of tests that were not run this time.
    """
    written = []
    predicted = [record for record in results["records"] if record["predicted"]]
    measured = [record for record in results["records"] if not record["predicted"]]
    if predicted:
        origin = {name: results[name] for name in ("versions", "commit", "date")}
        written.append(_update({"device": PREDICTED, **origin, "records": predicted}, folder / PREDICTED))
    if measured:
        written.append(_update({**results, "records": measured}, folder / slug(results["device"])))
    return written


def slug(device: str) -> str:
    """A device's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def pictures(results: Results) -> dict[str, list[Record]]:
    """The file names of the plots of results, each with the records that it shows; see `plots`.

    They are measured, but for the memory of contrastive steps, which is predicted.
    """
    measured = [r for r in results["records"] if not r["predicted"] and "not_run" not in r]
    ops = [r for r in measured if r["suite"] == "ops" and "gb_per_s" in r and not r["name"].startswith("attention")]
    found = {f"ops-{size}": [r for r in ops if r["size"] == size] for size in dict.fromkeys(r["size"] for r in ops)}
    found |= {suite: [r for r in measured if r["suite"] == suite] for suite in ("model", "loader")}
    found["contrast"] = [r for r in results["records"] if r["suite"] == "contrast" and r["predicted"]]
    return {f"{slug(results['device'])}-{name}.svg": records for name, records in found.items() if records}


def _update(results: Results, folder: Path) -> Path:
    path = folder / f"{results['commit']}.json"
    ran = {key(record)[:3] for record in results["records"]}
    before = load(path)["records"] if path.exists() else []
    kept = [record for record in before if key(record)[:3] not in ran]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**results, "records": kept + results["records"]}, indent=1) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> Results:
    """Read a file of results; ValueError if it is no such file, or a record comes twice."""
    results = json.loads(path.read_text(encoding="utf-8"))
    try:
        keys = [key(record) for record in results["records"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of benchmark results") from error
    if len(set(keys)) != len(keys):
        raise ValueError(f"{path} has more than one record of {next(k for k in keys if keys.count(k) > 1)}")
    return results


def load_newest(folder: Path, besides: str = "") -> list[Results]:
    """The newest results of every device below `folder`, predictions last. Results of commit `besides` are left out.

    Each suite's newest stand together, as figures are compared within a suite only; `commits` has the commit of each.
    Measured ones do so only if packages, driver and threads are the same.
    """
    every = [load(path) for path in sorted(folder.glob("*/*.json"))]
    newest: dict[str, Results] = {}
    for results in sorted(every, key=lambda results: results["date"]):
        if results["commit"] != besides:
            before = newest.get(results["device"])
            alike = before is not None and (results["device"] == PREDICTED or _setting(before) == _setting(results))
            newest[results["device"]] = _with_other_suites(results, before if alike else None)
    return sorted(newest.values(), key=lambda results: (results["device"] == PREDICTED, results["device"]))


def _setting(results: Results) -> tuple[Any, ...]:
    return results["versions"], results.get("driver"), results.get("threads")


def _with_other_suites(results: Results, before: Results | None) -> Results:
    """Results, with the records of `before` of the suites that they lack."""
    if before is None:
        return results
    suites = {record["suite"] for record in results["records"]}
    kept = [record for record in before["records"] if record["suite"] not in suites]
    commits = dict.fromkeys(sorted({record["suite"] for record in kept}), before["commit"])
    commits |= {suite: commit for suite, commit in before.get("commits", {}).items() if suite not in suites}
    return {**results, "records": results["records"] + kept} | ({"commits": commits} if commits else {})


def load_earlier(folder: Path, results: Results, suite: str) -> Results | None:
    """The newest results below `folder` of the same device, older than `results`, with records of a suite."""
    found = [
        other
        for path in folder.glob(f"{slug(results['device'])}/*.json")
        if (other := load(path))["date"] < results["date"] and any(r["suite"] == suite for r in other["records"])
    ]
    return max(found, key=lambda other: other["date"], default=None)


def load_base(path: Path, new: Results) -> Results:
    """What to compare `new` with: a file, or the newest predictions and results of the same device below a folder.

    ValueError if the folder has no such results of another commit.
    """
    if path.is_file():
        return load(path)
    fitting = [r for r in load_newest(path, besides=new["commit"]) if r["device"] in (new["device"], PREDICTED)]
    if not fitting:
        raise ValueError(f"{path} has no results of {new['device']} to compare with")
    return {**fitting[0], "records": [record for results in fitting for record in results["records"]]}


def compare(new: Results, base: Results, threshold: float = 0.05) -> list[str]:
    """Regressions of `new` against `base`, one line each.

    A regression is a missing record, a median time beyond `threshold`, or more memory, kernel launches, host syncs or
    bytes. Only suites and sizes present in `new` are compared. ValueError if `base` has none of them, or if times come
    from two machines.
    """
    found = {key(record): record for record in new["records"]}
    ran = {_part(record) for record in new["records"]}
    pairs = [(record, found.get(key(record))) for record in base["records"] if _part(record) in ran]
    if not pairs:
        raise ValueError(f"nothing to compare with: the base has no results of {sorted(ran)}")
    timed = [(old, now) for old, now in pairs if "p50_ms" in old and now and "p50_ms" in now]
    if timed:
        _check_same(base, new, "device", "threads")
    for old, now in timed:
        _check_same(old, now, "processor")  # loading is timed on a processor, also on a machine with a GPU
    return [line for old, now in pairs for line in _regressions(old, now, threshold)]


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], *machine: str) -> None:
    for what in machine:
        before, now = old.get(what), new.get(what)
        if before != now:
            raise ValueError(f"times of two machines cannot be compared: {what} {before!r}, now {now!r}")


def _part(record: Record) -> tuple[str, str]:
    """What is run as a whole: a suite at a size."""
    return record["suite"], size_of(record)


def size_of(record: Record) -> str:
    """The model size of a record: its name for steps and predictions, a field for ops. For loading: the video size."""
    return record["size"] if record["suite"] == "ops" else record["name"]


def _regressions(old: Record, now: Record | None, threshold: float) -> Iterable[str]:
    name = ", ".join(key(old))
    if now is None:
        yield f"{name}: missing"
        return
    if "not_run" in now and "not_run" not in old:
        yield f"{name}: not run, {now['not_run']}"
        return
    limits = {"p50_ms": 1 + threshold} | {figure: 1 + ROUNDING for figure in NEVER_MORE}
    for figure, limit in limits.items():
        if figure not in old:
            continue
        if figure not in now:
            yield f"{name}: {figure} was {old[figure]:,.6g}, now missing"
        elif now[figure] > old[figure] * limit:
            yield f"{name}: {figure} was {old[figure]:,.6g}, now {now[figure]:,.6g}"
