"""The house keeps its own rules."""

import ast
import importlib
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jobkit

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "jobkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
SETTINGS: dict[str, Any] = tomllib.loads((TOP / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
LINES_ALLOWED = 400
SHIPPED = {".css", ".html", ".js", ".lua", ".py"}

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def place(path: Path) -> str:
    return str(path.relative_to(TOP))


def code_lines(source: str) -> int:
    """How many lines hold code: no blank ones, comments or docstrings."""
    lines: set[int] = set()
    statement_begins = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            statement_begins = True
        if token.type in NOT_CODE:
            continue
        if not (statement_begins and token.type == tokenize.STRING):
            lines.update(range(token.start[0], token.end[0] + 1))
        statement_begins = False
    return len(lines)


def test_docstrings_and_comments_are_no_code() -> None:
    source = (
        '"""Doc\nmore."""\n\n# why\nx = """a\nb"""\ndef f():\n    """Doc."""\n    y\n'
    )

    assert code_lines(source) == 4


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_a_module_opens_with_a_sentence(module: Path) -> None:
    docstring = ast.get_docstring(ast.parse(module.read_text()))

    assert docstring, "it has no docstring"
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("module", MODULES, ids=place)
def test_a_module_is_not_too_long(module: Path) -> None:
    assert code_lines(module.read_text()) <= LINES_ALLOWED


def layers(contract: dict[str, Any]) -> set[str]:
    return {
        name.strip().strip("()")
        for layer in contract["layers"]
        for name in re.split("[|:]", layer)
    }


@pytest.mark.parametrize(
    "contract",
    [c for c in SETTINGS["tool"]["importlinter"]["contracts"] if c["type"] == "layers"],
    ids=lambda contract: str(contract["containers"][0]),
)
def test_every_module_has_its_layer(contract: dict[str, Any]) -> None:
    (container,) = contract["containers"]
    folder = TOP / container.replace(".", "/")
    present = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}

    assert contract["exhaustive"]
    assert present | packages <= layers(contract)


def test_the_front_door_is_what_it_was() -> None:
    pinned = (TOP / "tests/unit/front_door.txt").read_text().split()

    assert sorted(jobkit.__all__) == pinned
    for name in pinned:
        assert getattr(jobkit, name)


def test_a_module_can_be_imported_alone() -> None:
    modules = [place(path).removesuffix(".py").replace("/", ".") for path in MODULES]
    for module in modules:
        importlib.import_module(module.removesuffix(".__init__"))


def test_there_is_one_version() -> None:
    assert jobkit.__version__ == PROJECT["version"]
    assert metadata.version("celery-jobkit") == PROJECT["version"]


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    text = (TOP / "CHANGELOG.md").read_text()

    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "Unreleased"


def test_users_get_celery_and_nothing_else() -> None:
    assert PROJECT["dependencies"] == ["celery[redis]>=5.6,<6"]


REQUIREMENTS = [
    requirement
    for group in (
        SETTINGS["build-system"]["requires"],
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
    )
    for requirement in map(Requirement, group)
    if requirement.name != PROJECT["name"]
]


def constraints() -> dict[str, str]:
    lines = (TOP / "constraints.txt").read_text().splitlines()
    pinned = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in pinned}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_requirement_has_a_lower_bound(requirement: Requirement) -> None:
    assert any(bound.operator in {">=", "=="} for bound in requirement.specifier)


def test_what_is_installed_for_tests_is_pinned_within_its_bounds() -> None:
    pinned = constraints()
    for requirement in REQUIREMENTS:
        name = canonicalize_name(requirement.name)
        if name != "hatchling":  # pip takes it for the build alone
            assert pinned[name] in requirement.specifier, requirement


def test_constraints_are_exact_and_come_from_the_registry() -> None:
    lines = (TOP / "constraints.txt").read_text().splitlines()

    for line in lines:
        assert re.fullmatch(r"# .*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    names = [canonicalize_name(line.partition("==")[0]) for line in lines[1:]]
    assert names == sorted(names)


def test_make_alone_prints_every_target() -> None:
    makefile = (TOP / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    printed = subprocess.run(
        ["make"],  # noqa: S607 - the one on the path is what users run
        cwd=TOP,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert [line.split()[0] for line in printed.splitlines()] == phony.split()


@pytest.mark.parametrize("script", ["run", "services"])
def test_a_script_of_ci_can_be_run(script: str) -> None:
    path = TOP / ".ci" / script

    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)  # noqa: S607 - likewise


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_wheel_has_types_and_scripts_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", tmp_path, TOP], check=True)
    (wheel,) = tmp_path.iterdir()
    inside = set(zipfile.ZipFile(wheel).namelist())

    own = {place(path) for path in PACKAGE.rglob("*") if path.suffix in SHIPPED}
    assert own | {"jobkit/py.typed"} <= inside
    assert {name.partition("/")[0] for name in inside} == {
        "jobkit",
        f"celery_jobkit-{PROJECT['version']}.dist-info",
    }
