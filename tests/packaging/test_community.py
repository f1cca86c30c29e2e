"""The files that a visitor, GitHub, PyPI and pre-commit read: they parse, agree with one another, and are complete."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.pages import ROOT
from videomae_fast import __version__

yaml = pytest.importorskip("yaml")
SKIPPED = {".venv", "build", "dist", "runs", ".git", "node_modules"}
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"


def files(*suffixes: str) -> list[Path]:
    """Files of the repository with these suffixes, not those of environments and builds."""
    found = (path for suffix in suffixes for path in ROOT.rglob(f"*{suffix}"))
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(ROOT).parts[:-1]))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project(name: str = "pyproject.toml") -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads(read(name))["project"]


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(.+)$", read("constraints.txt"), re.MULTILINE))


@pytest.mark.parametrize("path", files(".yml", ".yaml", ".cff"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_parses_without_doubled_keys(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(set(keys)) == len(keys), f"{path}: a key comes twice among {keys}"
            return super().construct_mapping(node, deep)

    assert yaml.load(path.read_text(encoding="utf-8"), Loader)


@pytest.mark.parametrize("path", files(".toml"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_toml_parses(path: Path) -> None:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", files(".json"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_json_parses(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))


def test_the_kernels_alone_have_the_same_version() -> None:
    assert project("kernels/pyproject.toml")["version"] == __version__ and "version" not in project()


def test_the_citation_is_a_cff_file() -> None:
    """What version 1.2.0 of the schema requires, of the software and of each reference, and the project's own data."""
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == [{"name": "The videomae_fast authors"}]
    assert (citation["version"], citation["license"]) == (__version__, project()["license"])
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all(person.keys() == {"family-names", "given-names"} for person in reference["authors"])
        assert reference["identifiers"][0]["value"].removeprefix("arXiv:") in reference["url"]
        assert reference["url"] in read("README.md")


def test_pre_commit_runs_the_pinned_ruff_as_ci_does() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["rev"] == f"v{pins()['ruff']}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]
    assert "ruff check ." in read(".ci/run") and "ruff format --check ." in read(".ci/run")


def test_documentation_and_release_tools_are_pinned() -> None:
    needed = {re.split(r"[\[>=]", requirement)[0] for requirement in project()["optional-dependencies"]["docs"]}
    installed = re.findall(
        r"pip install -c constraints\.txt (.+)$", read(".github/workflows/release.yml"), re.MULTILINE
    )
    assert needed | set(installed[0].split()) <= pins().keys()


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_are_forms(name: str) -> None:
    """The keys that GitHub asks of a form, and an id and a label for every field."""
    form = yaml.safe_load((TEMPLATES / f"{name}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert field["attributes"]["label"]
        assert field["type"] != "dropdown" or len(field["attributes"]["options"]) > 1
        assert isinstance(field["validations"]["required"], bool)


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog: a heading for what is unreleased first, and the kinds of change that it names."""
    headings = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert __version__ in headings or f"This will be {__version__}," in read("CHANGELOG.md")


def test_every_address_of_the_repository_is_the_same() -> None:
    """One place to fill in means one name everywhere."""
    names = ("pyproject.toml", "README.md", "mkdocs.yml", "CITATION.cff")
    owners = {owner for name in names for owner in re.findall(r"github\.com/([\w-]+)/videomae_fast", read(name))}
    assert len(owners) == 1
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} == project()["urls"].keys()
