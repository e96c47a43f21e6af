"""Data flows one way: a module imports only from those before it, and heavy ones stay out."""

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "workbench"
ORDER = """
    text errors limits stopping memory paper shape storing files journal locks turns resources
    config states manifest info batches dropout bootstrap progress arms records lines drift_files
    tables series merging adapters fingerprints blocks conventions modes models caches heads
    prefixes sources loading phases phase_origin probes inputs chat chat_formats encoding reading
    activations phase_reading artefacts landmarks directions vectors exchange drift measurement
    isotropic nulls significance refit aftermath controls losses generation continuations judges
    questions readout interventions penalties anchors projections edits editing training_edits
    rehearsal updates finetune evaluation statistic runs store standing archive surroundings
    course passage passage_reading plane grids points checkpoints centres grid_work ablation
    conditions recording trial workers nodes cluster background groundwork ablated_runs evidence
    blocking tradeoff comparison summary verification worlds calibration experiment plots widgets
    footprint doctor commands cli __main__
""".split()  # noqa: SIM905
LEAVES = {"organism", "integrations"}
"""They import anything; they are imported only inside functions, when somebody asks for them."""

MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def home(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(nodes):
    """Names of the workbench modules that these nodes import, by their first part."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("workbench."):
                    yield name.name.split(".")[1]


def at_once(tree):
    """All nodes that run when the module is imported: those outside of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_once(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_upstream(path):
    module, tree = home(path), ast.parse(path.read_text(encoding="utf-8"))
    if module in LEAVES:
        return
    assert module in ORDER, f"{module} has no place in ORDER: give it one"
    upstream = {*ORDER[: ORDER.index(module) + 1]}
    for name in imported(ast.walk(tree)):
        assert name in upstream | LEAVES, f"{module} imports {name}, which comes after it"
    for name in imported(at_once(tree)):
        assert name not in LEAVES, f"{module} imports {name}, a leaf, when it is imported itself"


def test_an_import_from_downstream_would_be_noticed():
    tree = ast.parse(
        "from workbench.cli import main\nimport workbench.plots.style\n"
        "class A:\n    def f(self):\n        from workbench.organism import world\n"
    )
    assert set(imported(ast.walk(tree))) == {"cli", "plots", "organism"}
    assert set(imported(at_once(tree))) == {"cli", "plots"}


def loaded_by(module):
    """Which of the heavy packages a fresh interpreter has loaded after importing `module`."""
    code = (
        f"import sys, {module}; "
        "heavy = ('torch', 'transformers', 'transformer_lens', 'plotly', 'pandas', 'scipy'); "
        "print(*(name for name in heavy if name in sys.modules))"
    )
    paths = [str(ROOT.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
    assert loaded_by("workbench") == set()
    assert loaded_by("torch") >= {"torch"}  # it would have been seen


LIGHT = """
    records config arms series nulls significance calibration runs store standing archive
    surroundings verification
    course passage grids
    evidence blocking tradeoff comparison summary plots widgets
""".split()  # noqa: SIM905


@pytest.mark.parametrize("module", LIGHT)
def test_what_opens_old_runs_imports_no_torch(module):
    if not ((ROOT / f"{module}.py").exists() or (ROOT / module).exists()):
        pytest.skip(f"there is no workbench.{module} yet")
    assert not loaded_by(f"workbench.{module}") & {"torch", "transformers", "transformer_lens"}


def test_every_public_name_exists_and_an_unknown_one_does_not():
    import workbench

    assert len(workbench.__all__) > 20
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    assert {*workbench.__all__} <= {*dir(workbench)}
    with pytest.raises(AttributeError, match="'workbench' has no attribute 'nothing'"):
        workbench.nothing  # noqa: B018


def imports_of_ours():
    """What files outside of the package import from it: the seldom run ones, too."""
    root = ROOT.parent
    for path in sorted([*root.glob("tests/**/*.py"), *root.glob("notebooks/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
                for name in node.names:
                    yield str(path.relative_to(root)), node.module, name.name


def is_there(module, name):
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.util.find_spec(f"{module}.{name}")
        )
    except ImportError:
        return False


def test_what_tests_and_experiments_import_is_there_also_where_they_are_seldom_run():
    wanted = {(module, name) for _, module, name in imports_of_ours()}
    assert len(wanted) > 300
    missing = {one for one in wanted if not is_there(*one)}
    assert [told for told in imports_of_ours() if told[1:] in missing] == []


def test_a_name_that_has_moved_would_be_noticed():
    assert is_there("workbench.chat_formats", "BUILTIN_PROMPT")
    assert not is_there("workbench.encoding", "BUILTIN_PROMPT")
    assert not is_there("workbench.gone", "any")
