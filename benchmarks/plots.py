"""Draws ``docs/speed_growth.png`` from the newest result of `growth`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.results import latest

TARGET = Path(__file__).parents[1] / "docs" / "speed_growth.png"
PANELS = {
    "images": "images of 512 features",
    "features": "features d (256 images)",
    "layers": "layers of 512 features, 1,024 images",
    "ranks": "ranks (gloo, one machine, d = 1024)",
}


def draw(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 2.6), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    for axes, (panel, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for axis in dict.fromkeys(row["axis"] for row in rows if row["axis"].startswith(panel)):
            points = [(row["value"], row["ms"]["median"]) for row in rows if row["axis"] == axis]
            axes.plot(*zip(*points, strict=True), "o-", label=axis.partition(", ")[2] or None)
        if panel == "features":
            axes.legend(fontsize=8)
        if panel in ("images", "features"):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel("ms", fontsize=8)
    return figure


if __name__ == "__main__":
    draw(latest("growth")["rows"]).savefig(TARGET, metadata={"Software": None})
    print(f"wrote {TARGET}")
