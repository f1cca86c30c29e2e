"""A Markdown table of records: a function for each column."""

from collections.abc import Callable

from benchmarks.harness.results import Record

Cell = Callable[[Record], str]


def markdown_table(columns: dict[str, Cell], rows: list[Record]) -> str:
    """A table without the columns that no row has figures for; a record that was not run says why."""
    cells = [{title: _cell(cell, row) for title, cell in columns.items()} for row in rows]
    titles = [title for title in columns if any(row[title] for row in cells)]
    lines = [titles, ["---"] * len(titles), *([row[title] for title in titles] for row in cells)]
    for row, line in zip(rows, lines[2:], strict=True):
        if "not_run" in row:
            line[line.index("")] = f"not run: {row['not_run']}"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell, row: Record) -> str:
    try:
        return cell(row)
    except KeyError:
        return ""
