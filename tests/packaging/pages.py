"""What the pages of the documentation say: their code blocks, commands, links and named paths."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *DOCS,
    ROOT / "benchmarks" / "README.md",
]
PAGES = [page for page in PAGES if page.is_file()]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([\w.-]+(?:/[\w.{},-]+)+/?)`")


def name(page: Path) -> str:
    """A page's path from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[str]:
    """Lines of the bash blocks, without comments and with continued lines joined."""
    blocks = [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language == "bash"]
    lines = [line.strip() for code in blocks for line in code.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


def ci_script() -> str:
    """The text of .ci/run."""
    return (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def looked_up_by_ci() -> list[str]:
    """The commands that .ci/run finds in README.md and runs as they are."""
    parts = re.findall(r'\$\(readme_command "([^"]+)"\)', ci_script())
    assert len(parts) == 2
    found = []
    for part in parts:
        matching = [line for line in commands(ROOT / "README.md") if part in line]
        assert len(matching) == 1, f".ci/run needs exactly one line with {part!r} in README.md, found {matching}"
        found += matching
    return found


def is_run_by_ci(command: str) -> bool:
    """Whether .ci/run runs this very command, in its virtual environment or not."""
    script = ci_script().replace(".venv/bin/", "")
    return command in looked_up_by_ci() or bool(re.search(rf"{re.escape(command)}(?=[\"\n;]| &&)", script))


def arguments(command: str) -> list[str] | None:
    """The arguments of `videomae-fast`, also when started by `torchrun -m videomae_fast`; None for other commands."""
    words = shlex.split(command, comments=True)
    starts = [i for i, word in enumerate(words) if Path(word).name in ("videomae-fast", "videomae_fast")]
    return words[starts[0] + 1 :] if starts else None


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """Relative targets of links and pictures, without anchors."""
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            yield target.partition("#")[0]


def named_paths(page: Path) -> Iterator[str]:
    """Paths in the prose, such as `videomae_fast/engine/` or `models/{layers,pretrain}.py`; braces expanded."""
    for path in NAMED.findall(prose(page)):
        yield from expanded(path)


def expanded(path: str) -> list[str]:
    """`a/{b,c}.py` as a/b.py and a/c.py."""
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [p for part in match[1].split(",") for p in expanded(path[: match.start()] + part + path[match.end() :])]
