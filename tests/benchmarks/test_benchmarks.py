"""Every benchmark runs, and the documents say what the committed results say."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ["interval_search", "budgeted_search"]
BENCHMARKS = [
    "peers",
    "limit",
    "memory",
    "overhead",
    "topk",
    "tried",
    "views",
    "lidar_memory",
    "readouts",
]
BENCHMARKS += EXPERIMENTS
BENCHMARKS += [pytest.param("growth", marks=pytest.mark.slow)]  # starts processes


@pytest.fixture(autouse=True)
def benchmarks_at_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def smoke(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--smoke"])
    room = "experiments" if name in EXPERIMENTS else "benchmarks"
    importlib.import_module(f"{room}.{name}").main()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_smoke_runs_and_writes_nothing(name, monkeypatch, capsys):
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    smoke(name, monkeypatch)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_benchmark_refuses_without_one(monkeypatch):
    with pytest.raises(SystemExit, match="needs a CUDA GPU, and torch sees none"):
        smoke("gpu", monkeypatch)


def test_tables_of_the_docs_are_those_of_the_results():
    from benchmarks.tables import PAGES, rendered

    for page, tables in PAGES.items():
        text = page.read_text()
        assert rendered(text, tables) == text, f"{page}: run python -m benchmarks.tables"

    page = ROOT / "docs" / "benchmarks.md"
    text, tables = page.read_text(), PAGES[page]
    changed = text.replace("<!-- table: peers -->\n", "<!-- table: peers -->\n| 1 |\n")
    assert changed != text
    assert rendered(changed, tables) == text
    with pytest.raises(SystemExit, match="expected one <!-- table: peers -->"):
        rendered(text.replace("<!-- table: peers -->", ""), tables)


def test_scale_on_paper_is_what_its_formulas_give():
    from benchmarks.scale import PAGE, TABLES, ring
    from benchmarks.tables import rendered

    assert rendered(PAGE.read_text(), TABLES) == PAGE.read_text()
    # Patarasuk and Yuan, 2009: a ring sends each byte but a rank's own share twice.
    assert ring(100.0, 2) == 100.0
    assert ring(100.0, 4) == 150.0


def test_interleaving_goes_round_and_summarises():
    from benchmarks.timing import interleaved

    calls = []
    times = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1
    )
    assert calls == ["a", "b"] * 4
    assert set(times) == {"a", "b"}
    for row in times.values():
        assert 0 <= row["min"] <= row["q1"] <= row["median"] <= row["q3"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_peak_memory_sees_what_was_freed_again():
    from benchmarks.timing import peak_memory

    size = 200_000_000
    assert peak_memory(lambda: torch.ones(size // 4).sum()) == pytest.approx(size, rel=0.1)


def test_a_missing_result_names_the_command(tmp_path):
    from benchmarks.results import latest

    with pytest.raises(SystemExit, match=r"no result of peers .*run python -m benchmarks\.peers"):
        latest("peers", tmp_path)
