"""The figures in README.md are those of the committed results."""

import json
from pathlib import Path

from videomae_fast.report.bench import format_table

ROOT = Path(__file__).parents[2]


def test_readme_shows_the_committed_results_and_no_others() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = readme.index("<!-- results -->"), readme.index("<!-- end of results -->")
    reports = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").rglob("*.json"))]
    tables = "\n\n".join(format_table(report) for report in reports)
    assert reports and readme[start:end] == f"<!-- results -->\n\n{tables}\n\n"
    for report in reports:
        assert "dirty" not in report["commit"]
