"""The scripts and the notebook of examples/ run from beginning to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LAST_WORDS = {
    "monitor.py": "runs/monitor/",
    "plain_torch.py": "step 200: α = ",
    "rank_checkpoints.py": "best of the two that were read out: runs/old/lambd=",
    "quickstart.ipynb": "keep: ",
}


def code(example):
    """A script as it is; the code cells of a notebook, one after the other."""
    if example.suffix == ".py":
        return example.read_text()
    cells = json.loads(example.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_each_example_is_tried():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == set(LAST_WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAST_WORDS)
def test_it_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "example.py").write_text(code(EXAMPLES / name))
    ran = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert ran.returncode == 0, ran.stderr
    assert LAST_WORDS[name] in ran.stdout
