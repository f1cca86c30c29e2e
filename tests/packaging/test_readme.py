"""What README.md tells people to type works: every command is run by CI, or its options are checked here."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Lines of the bash and sh blocks, without comments and with continued lines joined."""
    blocks = [code for language, code in FENCE.findall(readme()) if language in ("bash", "sh")]
    lines = [line.strip() for code in blocks for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def run_by_ci() -> list[str]:
    """The commands that .ci/run looks up in README.md and runs as they are."""
    parts = re.findall(r'\$\(readme_command "([^"]+)"\)', (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert len(parts) == 2
    found = []
    for part in parts:
        matching = [line for line in commands() if part in line]
        assert len(matching) == 1, f".ci/run needs exactly one line with {part!r} in README.md, found {matching}"
        found += matching
    return found


def test_ci_finds_its_commands_and_they_install_pinned_versions() -> None:
    for line in run_by_ci():
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")


def cli_arguments(line: str) -> list[str]:
    """What a command hands to `videomae-fast`, however it starts it: `VAR=1 .venv/bin/videomae-fast`, `torchrun -m`."""
    words = shlex.split(line, comments=True)
    starts = [i for i, word in enumerate(words) if Path(word).name in ("videomae-fast", "videomae_fast")]
    assert starts, f"neither CI nor this test checks this command of README.md: {line}"
    return words[starts[0] + 1 :]


def test_every_other_command_is_understood() -> None:
    """`videomae-fast` commands are parsed, so that a renamed option shows; no other kind can be checked here."""
    from videomae_fast.cli import build_parser

    for line in commands():
        if line not in run_by_ci():
            try:
                build_parser().parse_args(cli_arguments(line))
            except SystemExit as stop:
                assert stop.code == 0, f"videomae-fast does not take these options: {line}"


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    text, namespace = readme(), {"__name__": "readme"}
    for block in FENCE.finditer(text):
        if block[1] == "python":
            line = text.count("\n", 0, block.start(2))
            exec(compile("\n" * line + block[2], str(ROOT / "README.md"), "exec"), namespace)
