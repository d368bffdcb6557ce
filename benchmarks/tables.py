"""Writes the tables between ``<!-- table: name -->`` marks of the docs from committed results.

``python -m benchmarks.tables`` rewrites them; a test holds the pages to it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.limit import SIZES
from benchmarks.results import EXPERIMENTS, RESULTS, latest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _ratio(times: dict[str, Any], above: str, below: str, clock: str = "median") -> float:
    return times[above][clock] / times[below][clock]


def _cell(times: dict[str, Any], above: str, below: str) -> str:
    wall, cpu = (_ratio(times, above, below, clock) for clock in ("median", "cpu"))
    return f"{wall:.3f} ({cpu:.3f})" if wall < 0.1 else f"{wall:.2f} ({cpu:.2f})"


def _row(benchmark: str, n: int, d: int) -> dict[str, Any]:
    [times] = [r["ms"] for r in latest(benchmark)["rows"] if (r["n"], r["d"]) == (n, d)]
    return dict(times)


def verdict(met: bool | None) -> str:
    return "open" if met is None else "met" if met else "**missed**"


def table(header: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of Markdown; the cells of the header are written with the bars between them."""
    rule = "|---" * (header.count("|") + 1) + "|"
    return [f"| {header} |", rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def targets() -> list[str]:
    """Each target, the measured figure, and the command."""
    rows: list[tuple[str, str, bool | None, str]] = []
    # Peers on OpenBLAS suffer more from a busy machine than we do: such a "met" would flatter us.
    machine = latest("peers")["machine"]
    busy = machine["load"] > machine["cores"]
    for n, d, wanted in ((20_000, 2048, 7), (20_000, 1280, 7), (512, 1280, 6)):
        times = _row("peers", n, d)
        met = None if busy else _ratio(times, "reptrix", "ours") >= wanted
        text = f"≥ {wanted} × faster than reptrix, {n:,} × {d}"
        rows.append((text, _cell(times, "reptrix", "ours"), met, "peers"))
    for n, d in ((20_000, 2048), (20_000, 1280)):
        times = _row("peers", n, d)
        met = _ratio(times, "svdvals", "ours") >= 5
        text = f"≥ 5 × faster than svdvals, {n:,} × {d}"
        rows.append((text, _cell(times, "svdvals", "ours"), met, "peers"))
    measured = {(row["n"], row["d"]): row["ms"] for row in latest("limit")["rows"]}
    for n, d in SIZES:
        wanted, times = 0.85 if n >= 10 * d else 1.1, measured.get((n, d))
        met = None if times is None else _ratio(times, "ours", "naive") <= wanted
        figure = "not measured" if times is None else _cell(times, "ours", "naive")
        if times is not None and "streamed" in times:
            figure += f"; streamed {_ratio(times, 'streamed', 'naive'):.2f}"
        rows.append((f"≤ {wanted} × the naive limit, {n:,} × {d}", figure, met, "limit"))
    for row, wanted in zip(latest("overhead")["rows"], (3, 1), strict=True):
        share = row["percent_of_10000_images"]
        text = f"≤ {wanted} % of a validation epoch of 10,000 images, {row['network']}"
        rows.append((text, f"{share:.2f} %", share <= wanted, "overhead"))
    for row in latest("memory")["rows"]:
        what = "α and RankMe" if row["scores"] else "α alone"
        text = f"≤ 3·d²·8 bytes + a batch of memory, {row['n']:,} × {row['d']}, {what}"
        used = row["peak_bytes"] / row["allowed_bytes"]
        rows.append((text, f"{used:.2f} of it", used <= 1, "memory"))
    rows += [(f"on a GPU: {text}", figure, met, "gpu") for text, figure, met in _of_gpu()]
    cells = [
        (text, figure, verdict(met), f"`make bench-{name}`") for text, figure, met, name in rows
    ]
    return table("target | wall (CPU time) | | run it", cells)


def _of_gpu() -> list[tuple[str, str, bool]]:
    texts = (
        "update of 1,024 × 2048 in ≤ 0.3 ms",
        "solve ≤ 1.1 × `eigvalsh`",
        "α of 50,000 × 2048 ≥ 100 × faster than reptrix on its CPU",
    )
    [row] = latest("gpu")["rows"]
    update, solve = row["ms"]["update"]["median"], _ratio(row["ms"], "solve", "eigvalsh")
    faster = _ratio(row["ms"], "reptrix on the CPU", "alpha")
    figures = (f"{update:.3f} ms", f"{solve:.2f}", f"{faster:.0f} ×")
    return list(zip(texts, figures, (update <= 0.3, solve <= 1.1, faster >= 100), strict=True))


def peers() -> list[str]:
    """Milliseconds of everyone on the same features."""
    names = ["ours", "streamed", "reptrix", "sklearn", "svdvals", "naive"]
    rows = [
        (f"{row['n']:,} × {row['d']}", *(f"{row['ms'][name]['median']:,.0f}" for name in names))
        for row in latest("peers")["rows"]
    ]
    return table(" | ".join(["n × d", *names]), rows)


def overhead() -> list[str]:
    """Where the monitor's time goes."""
    rows = []
    for row in latest("overhead")["rows"]:
        seconds = {mode: f"{ms / 1e3:.2f}" for mode, ms in row["epoch_ms"].items()}
        network = f"{row['network']}, {row['images']} images by {row['batch']}"
        times = (
            f"{row['batch_ms']:.0f} ms",
            f"{row['update_ms']:.2f} ms",
            f"{row['once_ms']:.0f} ms",
        )
        epochs = (f"{seconds['without']} / {seconds['reused']} s", f"{seconds['own']} s")
        rows.append((network, *times, *epochs))
    header = "network | a batch | an update | once | epoch without / with | own dataloader"
    return table(header, rows)


def readouts() -> list[str]:
    """Seconds of each, and how many times as long as α they take, on the same features."""
    names = {
        "alpha": "α",
        "rankme": "RankMe",
        "knn": "kNN",
        "logistic": "logistic regression",
        "adam": "Adam, 200 epochs",
        "extract": "making the features",
    }
    rows = []
    for row in latest("readouts")["rows"]:
        cells = [
            _seconds(row["ms"][name]["median"])
            + ("" if name == "alpha" else f" ({_ratio(row['ms'], name, 'alpha'):,.0f}\u00a0×)")
            for name in names
        ]
        rows.append((f"{row['n']:,} × {row['d']}", *cells))
    return table(" | ".join(["images × features", *names.values()]), rows)


def _seconds(ms: float) -> str:
    return f"{ms / 1e3:,.0f} s" if ms >= 10_000 else f"{ms / 1e3:.2g} s"


def topk() -> list[str]:
    """All eigenvalues against the largest alone."""
    results = latest("topk")["rows"]
    alphas = list(results[0]["worst_relative_error"])
    header = [f"solver, d = {results[0]['d']}", "ms", "CPU ms"]
    header += [f"worst error to rank 100, α = {alpha}" for alpha in alphas]
    rows = []
    for row in results:
        errors = (f"{row['worst_relative_error'][alpha]:.0e}" for alpha in alphas)
        rows.append((row["solver"], *(f"{row['ms'][t]:.0f}" for t in ("median", "cpu")), *errors))
    return table(" | ".join(header), rows)


def tried() -> list[str]:
    """What was left out of the hot path."""
    rows = []
    for row in [*latest("tried")["rows"], *latest("tried_passive")["rows"]]:
        values = {name: f"{ms['median']:.1f}" for name, ms in row.get("ms", {}).items()}
        values |= {name: f"{value:.0e}" for name, value in row.get("values", {}).items()}
        rows.append((row["what"], "; ".join(f"{name}: {value}" for name, value in values.items())))
    return table("| ms, or the error", rows)


def interval_search() -> list[str]:
    """Readouts that the search pays, and how often it finds the best model, over 60 landscapes."""
    found = {
        (row["noise"], row["models"], row["rule"]): row
        for row in latest("interval_search", EXPERIMENTS)["rows"]
        if row["landscapes"] == 60
    }
    rows = []
    for noise in sorted({noise for noise, _, _ in found}):
        few, careful = (found[noise, 80, rule] for rule in ("paper", "careful"))
        many = found[noise, 1000, "paper"]
        cells = [f"{noise:.0f}"]
        for row in (few, careful):
            cells += [f"{row['readouts']:.1f}", f"{row['success']:.1%}"]
        rows.append([*cells, f"{many['readouts']:.1f}", many["published"]])
    header = (
        "noise | readouts of 80 models | success | `--careful`: readouts of 80 | success | "
        "readouts of 1,000 models | published"
    )
    return table(header, rows)


def budgeted_search() -> list[str]:
    """Readouts and successes of each way of choosing."""
    ways = ("paper", "careful", "budgeted", "random")
    rows = []
    for row in latest("budgeted_search", EXPERIMENTS)["rows"]:
        noise = "–" if row["noise"] is None else f"{row['noise']:.0f}"
        cells = (f"{row[way]['readouts']:.1f}, {row[way]['success']:.0%}" for way in ways)
        rows.append((row["landscape"], noise, *cells))
    return table(" | ".join(["landscape", "noise", *ways]), rows)


def machines() -> list[str]:
    """Where and when, one line a benchmark."""
    lines = []
    for benchmark in (
        "peers",
        "limit",
        "overhead",
        "memory",
        "readouts",
        "topk",
        "tried",
        "growth",
        "gpu",
    ):
        result = latest(benchmark)
        machine = result["machine"]
        device = ", ".join(filter(None, [machine["cpu"], machine["gpu"]]))
        lines.append(
            f"* {benchmark}: {result['date']}, {device}, {machine['cores']} cores, torch "
            f"{machine['torch']}, load average {machine['load']}"
            + (f"; {result['note']}" if result.get("note") else "")
        )
    return lines


def adversary() -> list[str]:
    """What `make adversary-table` counted."""
    path = RESULTS / "adversary.json"
    if not path.exists():
        return ["(not counted on a quiet machine yet: `make adversary-table`)"]
    counts = json.loads(path.read_text(encoding="utf-8"))
    rows = [(name, f"{n['tried']:,}", f"{n['held']:,}") for name, n in counts.items()]
    return table("what an adversary tried | cases | held", rows)


Tables = Mapping[str, Callable[[], list[str]]]
ON_PAGES = {
    "benchmarks.md": (targets, peers, overhead, readouts, topk, tried, machines),
    "held.md": (adversary,),
    "select.md": (interval_search,),
    "trust.md": (budgeted_search,),
}
PAGES: dict[Path, Tables] = {
    DOCS / page: {made.__name__: made for made in makers} for page, makers in ON_PAGES.items()
}


def rendered(text: str, tables: Tables) -> str:
    """``text`` with every marked table made anew."""
    for name, table in tables.items():
        mark, end = f"<!-- table: {name} -->", "<!-- end -->"
        pattern = re.compile(rf"{re.escape(mark)}\n.*?{re.escape(end)}", flags=re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"expected one {mark} … {end} in the text")
        body = "\n".join([mark, *table(), end])
        text = pattern.sub(lambda _, body=body: body, text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page, tables in PAGES.items():
        page.write_text(rendered(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
        print(f"wrote {page}")
