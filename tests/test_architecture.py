"""Imports go down only: cli → callbacks, recipes, readout, selection → metrics → functional."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alphareq_lightning

SOURCE = Path(alphareq_lightning.__file__).parent
GROUND = {"errors", "files", "text"}  # import nothing but each other, and are imported by all
ALLOWED = {
    "_lightning": set(),
    "functional": {"errors", "functional"},
    "metrics": {"errors", "functional", "metrics"},
    "selection": {"errors", "selection"},
    "recipes": {"errors", "functional", "metrics", "recipes"},
    "readout": {"errors", "metrics", "readout"},
    "callbacks": {"errors", "functional", "metrics", "selection", "callbacks", "_lightning"},
    "posthoc": {
        "errors",
        "functional",
        "callbacks",
        "recipes",
        "readout",
        "selection",
        "posthoc",
        "profile",
        "report",
        "sweep",
    },
    "__init__": {"errors", "functional", "metrics", "selection", "callbacks"},
    "report": {"errors", "functional", "selection", "callbacks"},
    "demo": {"errors", "callbacks", "recipes", "readout", "selection"},
    "sweep": {"errors", "callbacks", "recipes", "readout", "selection", "sweep"},
    "profile": {"errors", "functional", "callbacks", "recipes", "selection", "profile"},
    "cli": {
        "errors",
        "callbacks",
        "recipes",
        "readout",
        "selection",
        "demo",
        "posthoc",
        "sweep",
        "profile",
    },
}
FILES = sorted(SOURCE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path.name}"
            yield node.module


def room(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path):
    for name in imported(path):
        if name.startswith("alphareq_lightning"):
            below = name.removeprefix("alphareq_lightning").strip(".").split(".")[0] or "__init__"
            allowed = ALLOWED.get(room(path), set()) | GROUND
            assert below in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_one_file_knows_both_lightnings(path):
    names = set(imported(path))
    if room(path) != "_lightning":
        assert not any(name.startswith("pytorch_lightning") for name in names)
    if room(path) in ("functional", "metrics", "selection", "callbacks"):
        assert not any(name.startswith("lightning") for name in names)


def test_selection_needs_no_torch():
    # The package's own door imports torch, so the folder is read alone.
    for path in (SOURCE / "selection").glob("*.py"):
        assert not any(name.split(".")[0] == "torch" for name in imported(path))


def test_import_leaves_no_trace():
    code = (
        "import torch; torch.manual_seed(1); before = torch.get_rng_state()"
        ""
        "; import alphareq_lightning"
        "; assert torch.equal(before, torch.get_rng_state())"
        "; assert torch.get_default_dtype() == torch.float32"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
