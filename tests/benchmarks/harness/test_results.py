"""Results: collected from samples, kept in files, compared."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.results import collect, compare, load, load_base, load_newest, save
from benchmarks.harness.tables import format_results

MACHINE = {"device": "Some GPU 9000", "driver": "1.2", "versions": {"torch": "3"}, "threads": 4, "commit": "abc"}


def record(suite: str = "ops", name: str = "gather", variant: str = "ours", **figures: Any) -> dict[str, Any]:
    base = {"suite": suite, "name": name, "case": "2 clips", "variant": variant, "predicted": suite == "memory"}
    return base | ({"size": "base"} if suite == "ops" else {}) | figures


def report(*entries: tuple[dict[str, Any], list[float]], copy_gb_per_s: float | None = 100.0) -> dict[str, Any]:
    """A journal, as it is read."""
    return {
        "machine": MACHINE | {"copy_gb_per_s": copy_gb_per_s},
        "date": "2026-01-02T03:04:05",
        "tests": [{"nodeid": str(n), "record": r, "seconds": data} for n, (r, data) in enumerate(entries)],
    }


def results(*records: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**MACHINE, "copy_gb_per_s": 100.0, "date": "2026-01-02T03:04:05", "records": list(records), **changes}


def test_percentiles_and_rates() -> None:
    samples = [n / 1000 for n in range(1, 12)]  # 1 … 11 ms
    collected = collect(
        report((record(bytes=300_000_000), samples), (record("model", "base", clips=12), samples[::-1]))
    )
    op, step = collected["records"]
    assert [op[p] for p in ("p20_ms", "p50_ms", "p80_ms")] == pytest.approx([3, 6, 9])
    assert op["rounds"] == 11
    assert op["gb_per_s"] == pytest.approx(50) and op["roofline"] == pytest.approx(0.5)
    assert step["clips_per_s"] == pytest.approx(2000) and "gb_per_s" not in step
    assert collected["date"] == "2026-01-02T03:04:05" and collected["copy_gb_per_s"] == 100


def test_rounds_are_merged() -> None:
    first, second = record("model", "base", clips=1), record("model", "base", "published", clips=1)
    collected = collect(report((first, [0.001, 0.002]), (second, [5.0]), (first, [0.009]), (second, [6.0])))
    assert [(r["variant"], r["rounds"], r["p50_ms"]) for r in collected["records"]] == [
        ("ours", 3, pytest.approx(2)),
        ("published", 2, pytest.approx(5500)),
    ]


def test_what_was_not_timed_has_no_times() -> None:
    collected = collect(
        report((record("memory", "base", peak_mib=3.0), [1.0]), (record(not_run="no card"), [1.0]), copy_gb_per_s=None)
    )
    for entry in collected["records"]:
        assert not {"p50_ms", "rounds", "gb_per_s"} & entry.keys()


def test_predicted_results_name_no_device(tmp_path: Path) -> None:
    collected = collect(report((record("memory", "base", peak_mib=3.0), [1.0]), copy_gb_per_s=None))
    assert collected["device"] == "predicted"
    (path,) = save(collected, tmp_path)
    assert path == tmp_path / "predicted" / "abc.json"
    assert load(path).keys() == {"device", "versions", "commit", "date", "records"}


def test_saved_by_device_and_commit(tmp_path: Path) -> None:
    both = results(record(p50_ms=1.0), record("memory", "base", peak_mib=2.0))
    paths = save(both, tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in paths) == [
        "predicted/abc.json",
        "some-gpu-9000/abc.json",
    ]
    assert [r for path in sorted(paths, reverse=True) for r in load(path)["records"]] == both["records"]


def test_another_run_of_a_commit_replaces_what_it_ran(tmp_path: Path) -> None:
    old, kept = record(variant="gone", p50_ms=1.0), record(name="scatter", p50_ms=1.0)
    save(results(old, kept), tmp_path)
    (path,) = save(results(record(p50_ms=2.0)), tmp_path)
    assert load(path)["records"] == [kept, record(p50_ms=2.0)]


def test_newest_of_every_device(tmp_path: Path) -> None:
    for commit, date in (("a", "2026-01-03"), ("b", "2026-01-05"), ("c", "2026-01-04")):
        save(results(record(), commit=commit, date=date), tmp_path)
        save(results(record("memory", "base"), commit=commit, date=date, device="A CPU"), tmp_path)
    save(results(record(), device="A CPU", commit="z", date="2020-01-01"), tmp_path)
    found = [(r["device"], r["commit"]) for r in load_newest(tmp_path)]
    assert found == [("A CPU", "z"), ("Some GPU 9000", "b"), ("predicted", "b")]
    assert [r["commit"] for r in load_newest(tmp_path, besides="b")] == ["z", "c", "c"]


def test_predictions_of_each_suite_are_its_newest(tmp_path: Path) -> None:
    """A prediction of one suite does not hide those of another."""
    for suite, commit, date in (("memory", "a", "01"), ("roofline", "b", "02"), ("roofline", "c", "03")):
        entry = record(suite, "base", tflop=int(date)) | {"predicted": True}
        save(results(entry, commit=commit, date=f"2026-01-{date}"), tmp_path)
    (found,) = load_newest(tmp_path)
    assert found["commit"] == "c" and found["commits"] == {"memory": "a"}
    assert [(r["suite"], r["tflop"]) for r in found["records"]] == [("roofline", 3), ("memory", 1)]
    assert "commit c, memory at a." in format_results({**found, "records": []})


def test_measured_suites_stand_together_only_if_measured_alike(tmp_path: Path) -> None:
    for suite, commit in (("model", "a"), ("ops", "b")):
        save(results(record(suite, "base"), commit=commit, date=f"2026-01-0{ord(commit) - 96}"), tmp_path)
    (measured,) = load_newest(tmp_path)
    assert {r["suite"] for r in measured["records"]} == {"ops", "model"} and measured["commits"] == {"model": "a"}
    save(results(record("ops", "base"), commit="c", date="2026-01-03", versions={"torch": "9"}), tmp_path)
    (measured,) = load_newest(tmp_path)
    assert [r["suite"] for r in measured["records"]] == ["ops"] and "commits" not in measured


def test_base_in_a_folder_is_of_the_same_device_and_another_commit(tmp_path: Path) -> None:
    for commit, device in (("a", "Some GPU 9000"), ("abc", "Some GPU 9000"), ("d", "Other")):
        save(
            results(record(), record("memory", "base"), commit=commit, device=device, date=f"2026-01-0{len(commit)}"),
            tmp_path,
        )
    base = load_base(tmp_path, results())
    assert base["device"] == "Some GPU 9000" and base["commit"] == "a"
    assert [r["suite"] for r in base["records"]] == ["ops", "memory"]
    with pytest.raises(ValueError, match="has no results of Some GPU 9000 to compare with"):
        load_base(tmp_path / "predicted", results())


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"x\.json is no file of benchmark results"):
        load(path)
    path.write_text(json.dumps(results(record(), record())))
    with pytest.raises(ValueError, match=r"more than one record of .*gather"):
        load(path)


FIGURES = {"p50_ms": 10.0, "peak_mib": 100.0, "kernel_launches": 3, "syncs": 0}
BASE = results(record(**FIGURES), record(name="scatter", **FIGURES), record("model", "base", **FIGURES))


def changed(**figures: Any) -> dict[str, Any]:
    new = copy.deepcopy(BASE)
    new["records"][0] |= figures
    return new


@pytest.mark.parametrize(
    "figures",
    [{}, {"p50_ms": 10.4}, {"p50_ms": 1.0}, {"peak_mib": 100.05}, {"peak_mib": 90.0}, {"kernel_launches": 2}],
)
def test_no_regression(figures: dict[str, Any]) -> None:
    assert compare(changed(**figures), BASE, threshold=0.05) == []


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"p50_ms": 10.6}, "p50_ms was 10, now 10.6"),
        ({"peak_mib": 100.2}, "peak_mib was 100, now 100.2"),
        ({"kernel_launches": 4}, "kernel_launches was 3, now 4"),
        ({"syncs": 1}, "syncs was 0, now 1"),
        ({"not_run": "no memory"}, "not run, no memory"),
    ],
)
def test_regressions(figures: dict[str, Any], line: str) -> None:
    assert compare(changed(**figures), BASE, threshold=0.05) == [f"ops, gather, 2 clips, ours: {line}"]


def test_threshold() -> None:
    assert compare(changed(p50_ms=12.9), BASE, threshold=0.3) == []
    assert len(compare(changed(p50_ms=13.1), BASE, threshold=0.3)) == 1


def test_missing_records_and_figures() -> None:
    new = copy.deepcopy(BASE)
    del new["records"][1]
    del new["records"][0]["syncs"]
    assert compare(new, BASE) == [
        "ops, gather, 2 clips, ours: syncs was 0, now missing",
        "ops, scatter, 2 clips, ours: missing",
    ]


def test_what_was_not_asked_for_is_not_missing() -> None:
    assert compare(results(record("model", "base", **FIGURES)), BASE) == []
    with pytest.raises(ValueError, match=r"no results of .*'model', 'giant'"):
        compare(results(record("model", "giant", **FIGURES)), BASE)


@pytest.mark.parametrize(("what", "value"), [("device", "Other"), ("threads", 8)])
def test_times_of_two_machines_are_not_compared(what: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"times of two machines cannot be compared: {what}"):
        compare(results(*BASE["records"], **{what: value}), BASE)
    memory = record("memory", "base", peak_mib=1.0)
    assert compare(results(memory, **{what: value}), results(memory)) == []


def loading(**figures: Any) -> dict[str, Any]:
    return record("loader", "340x256", processor="x", p50_ms=10.0, bytes_to_device_per_clip=1000.0) | figures


def test_loading_sends_never_more_and_is_one_processors() -> None:
    assert compare(results(loading(p50_ms=10.4, bytes_to_device_per_clip=900.0)), results(loading())) == []
    worse = compare(results(loading(p50_ms=10.6, bytes_to_device_per_clip=1002.0)), results(loading()))
    assert [line.split(": ")[1] for line in worse] == [
        "p50_ms was 10, now 10.6",
        "bytes_to_device_per_clip was 1,000, now 1,002",
    ]
    assert compare(results(loading(name="454x256"), loading()), results(loading())) == []
    with pytest.raises(ValueError, match="times of two machines cannot be compared: processor 'x', now 'y'"):
        compare(results(loading(processor="y")), results(loading()))
