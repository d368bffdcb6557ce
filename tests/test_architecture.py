"""Imports go down only: each room knows the floors below its own, and no other room beside it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alphareq_lightning

SOURCE = Path(alphareq_lightning.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def floors():
    """The table of the page: rooms of each floor, ground first."""
    table = PAGE.read_text().split("<!-- floors -->")[1].split("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    return [re.findall(r"`(\w+)`", row) for row in reversed(rows)] + [["__init__", "__main__"]]


FLOOR = {room: number for number, rooms in enumerate(floors()) for room in rooms}
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


def test_the_page_names_every_room():
    assert {room(path) for path in FILES} <= set(FLOOR)
    assert PAGE.read_text().count("\n* **") == len({room(p) for p in FILES if p.parent != SOURCE})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path):
    for name in imported(path):
        if name.startswith("alphareq_lightning"):
            below = name.removeprefix("alphareq_lightning").strip(".").split(".")[0] or "__init__"
            beside = below == room(path) or FLOOR[below] == FLOOR[room(path)] == 0
            assert beside or FLOOR[below] < FLOOR[room(path)], name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_one_file_knows_both_lightnings(path):
    names = set(imported(path))
    if room(path) != "_lightning":
        assert not any(name.startswith("pytorch_lightning") for name in names)
    if room(path) in ("functional", "metrics", "records", "selection", "measure", "callbacks"):
        assert not any(name.startswith("lightning") for name in names)


def test_import_leaves_no_trace():
    code = (
        "import torch; torch.manual_seed(1); before = torch.get_rng_state()"
        ""
        "; import alphareq_lightning"
        "; assert torch.equal(before, torch.get_rng_state())"
        "; assert torch.get_default_dtype() == torch.float32"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
