import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import workbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEVELOPMENT = {"test", "browser", "long", "lint"}  # extras that the package itself may not import
PINS = [
    Requirement(line)
    for line in (ROOT / "tests/constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
PROVIDERS = packages_distributions()
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "environment.yml", "LICENSE", "CHANGELOG.md", "Makefile"),
    *("workbench", "notebooks", "assets", "tests"),
}


def requirements(extras: set[str]) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [
        requirement for line in lines if (requirement := Requirement(line)).name != PROJECT["name"]
    ]


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - {"workbench"} - sys.stdlib_module_names


def undeclared(modules: set[str], declared: list[Requirement]) -> set[str]:
    names = {canonicalize_name(requirement.name) for requirement in declared}
    return {
        module
        for module in modules
        if names.isdisjoint(map(canonicalize_name, PROVIDERS.get(module, [module])))
    }


def test_the_version_is_the_same_in_pyproject_and_in_the_package():
    assert PROJECT["version"] == workbench.__version__


@pytest.mark.parametrize("requirement", sorted(requirements({*EXTRAS}), key=str), ids=str)
def test_the_declared_range_admits_the_version_that_was_tested(requirement):
    [pin] = [
        pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
    ]
    assert str(pin.specifier).removeprefix("==") in requirement.specifier


def test_every_constraint_is_one_exact_public_version():
    # A local version such as 2.13.0+cpu, a folder or an address would hold on one machine only.
    assert [pin for pin in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", str(pin))] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workbench").rglob("*.py")), ids=lambda path: path.stem
)
def test_every_import_of_the_package_is_a_declared_dependency(path):
    assert not undeclared(imported_modules(path), requirements({*EXTRAS} - DEVELOPMENT))


def test_an_undeclared_import_is_seen():
    declared = [Requirement("PyYAML>=6"), Requirement("numpy")]
    assert undeclared({"numpy", "yaml", "traitlets"}, declared) == {"traitlets"}


def test_the_top_level_holds_no_more_than_the_layout_allows():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = {line.partition("/")[0] for line in listing.stdout.splitlines()}
    assert {name for name in tracked if not name.startswith(".")} <= TOP_LEVEL
