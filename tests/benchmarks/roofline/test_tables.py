"""Predicted times: labelled so, beside measured ones and those of an earlier commit."""

from typing import Any

from benchmarks.harness.results import load_earlier, save
from benchmarks.harness.tables import format_report, format_results, shown
from benchmarks.roofline.devices import ACHIEVED, DATASHEET, GPUS
from tests.benchmarks.harness.test_tables import CPU, GPU, ORIGIN, rows, step

CASE = "128 clips, bf16"


def prediction(variant: str, gb: float, launches: int = 1000, norms: float = 20.0) -> dict[str, Any]:
    ms = {
        gpu.name: {
            kind: {"matrix products": 10.0 * factor, "attention": 5.0 * factor, "norms": norms * factor}
            for kind, factor in ((DATASHEET, 1.0), (ACHIEVED, 1.5))
        }
        for gpu in GPUS
    }
    names = {"suite": "roofline", "name": "base", "case": CASE, "variant": variant, "predicted": True}
    return names | {"tflop": 2.0, "gb": gb, "kernel_launches": launches, "host_ms": launches / 50, "parts": {"ms": ms}}


def results(*records: dict[str, Any], commit: str = "c0ffee") -> dict[str, Any]:
    origin = {**ORIGIN, "commit": commit}
    return {"device": "predicted", **origin, "records": list(records)}


def table(text: str, first: str) -> list[dict[str, str]]:
    """The table whose first column has the title `first`."""
    lines = rows(next(part for part in text.split("\n\n") if part.startswith(f"| {first} |")))
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_prediction_is_called_one_and_says_what_is_assumed() -> None:
    text = format_results(results(prediction("published", 300.0), prediction("videomae_fast", 100.0, norms=1.0)))
    assert "### Predicted\n\nNot measured" in text and "Assumed: 20 µs of host time" in text
    published, ours = table(text, "predicted")
    assert (published["predicted"], published["GB"], published["host ms"]) == ("published", "300.0", "20.0")
    assert published["H100 ms, datasheet (achieved)"] == "35.0 (52.5)"
    assert ours["H200 ms, datasheet (achieved)"] == "16.0 (24.0)"
    by_part = {row["part"]: (row["published"], row["videomae_fast"]) for row in table(text, "part")}
    assert by_part["norms"] == ("20.0", "1.0") and by_part["**all**"] == ("35.0", "16.0")
    assert by_part["matrix products and attention alone"] == ("15.0", "15.0")
    sources = {line[0]: line[-1] for line in rows(text) if "datasheet," in line[-1]}
    assert sources.keys() == {gpu.name for gpu in GPUS}


def test_a_step_that_waits_for_the_host_is_marked() -> None:
    (row,) = table(format_results(results(prediction("videomae_fast", 1.0, launches=5000))), "predicted")
    assert row["H100 ms, datasheet (achieved)"] == "35.0 (52.5, host-bound)"


def test_what_changed_stands_beside_the_earlier_commit() -> None:
    earlier = results(prediction("published", 300.0), prediction("videomae_fast", 200.0, norms=30.0), commit="0ld")
    now = results(prediction("published", 300.0), prediction("videomae_fast", 100.0, norms=1.0))
    text = format_results(now, earlier)
    assert [row["predicted"] for row in table(text, "predicted")] == [
        "published",
        "videomae_fast, at 0ld",
        "videomae_fast",
    ]
    (norms,) = (row for row in table(text, "part") if row["part"] == "norms")
    assert (norms["videomae_fast, at 0ld"], norms["videomae_fast"]) == ("30.0", "1.0")


def test_measured_steps_stand_beside() -> None:
    measured = {**GPU, "records": [step("videomae_fast", 70.0, 1.0)]}
    records = results(prediction("published", 300.0), prediction("videomae_fast", 100.0))
    published, ours = table(format_report([measured, {**CPU, "records": []}, records]), "predicted")
    assert (published["measured on Some GPU ms"], ours["measured on Some GPU ms"]) == ("", "70.0")
    assert "measured" not in format_report([shown(records)]).replace("Not measured", "").replace(
        "has been measured", ""
    )


def test_the_earlier_results_are_the_newest_before(tmp_path: Any) -> None:
    dated = [results(prediction("published", n), commit=f"c{n}") | {"date": f"2026-01-0{n}"} for n in (1, 2, 3)]
    for one in dated:
        save(one, tmp_path)
    save(results({**prediction("published", 1), "suite": "memory"}, commit="m") | {"date": "2026-01-02T09"}, tmp_path)
    found = load_earlier(tmp_path, dated[2], "roofline")
    assert found is not None and found["commit"] == "c2"
    assert load_earlier(tmp_path, dated[0], "roofline") is None
