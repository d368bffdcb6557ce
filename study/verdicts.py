"""The verdict on the stored trainings, without a label; then what the choice would have cost.

It also draws three pictures of the docs: the course of α of five trainings, and what became of
them; and what loggers are shown of one of them.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from alphareq_lightning import AlphaRecord, course_figure, spectrum_figure
from alphareq_lightning.selection import verdict
from alphareq_lightning.selection.course import with_course
from study.records import records_of

HERE = Path(__file__).parent
FOLDERS = ("pilot/results", "results")
DOCS = HERE.parent / "docs"
SHOWN = "lambd=0.03,projector_dim=256.json"
"""Of ``turned``: the training whose figures the docs show."""


def courses_figure(folder: Path) -> Figure:
    """α of each training over its steps, and the accuracy that a label would have shown."""
    trainings = [records_of(path) for path in sorted(folder.glob("*.json"))]
    figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    found = verdict([record for training in trainings for record in training])
    failing = {record.run for record in found.failing}
    for records in trainings:
        run, name = records[-1].run, records[-1].run.partition("lambd=")[2].partition(",")[0]
        chosen = found.choice is not None and run == found.choice.run
        fate = ", chosen" if chosen else ", failing" if run in failing else ""
        style = {"ls": "--" if run in failing else "-", "lw": 3 if chosen else 1.6}
        left.plot([r.global_step for r in records], [r.alpha for r in records], **style)
        read = [(r.global_step, r.accuracy) for r in records if r.accuracy is not None]
        right.plot(*zip(*read, strict=True), marker="o", ms=3, label=f"λ = {name}{fate}", **style)
    left.set(title="α, without a label", ylabel="α")
    right.set(title="accuracy, which labels show", ylabel="top-1 in %")
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(trainings), frameon=False)
    return figure


def main() -> None:
    folders = sorted(f for name in FOLDERS for f in (HERE / name).iterdir() if f.is_dir())
    for folder in folders:
        records = [record for path in sorted(folder.glob("*.json")) for record in records_of(path)]
        found = verdict(records)
        print(f"{folder.relative_to(HERE)}: {len(found.courses)} trainings")
        for line in found.lines():
            print(f"  {line}")
        last = max(record.global_step for record in records)
        paid = [r.accuracy for r in records if r.global_step == last and r.accuracy is not None]
        if found.choice is not None and found.choice.accuracy is not None and paid:
            print(f"  checked: {found.choice.accuracy:.1f} %, the best {max(paid):.1f} %")
    turned = HERE / "results" / "turned"
    courses_figure(turned).savefig(DOCS / "course.png")
    history: list[AlphaRecord] = []
    for record in records_of(turned / SHOWN):
        history.append(with_course(record, history)[0])
    spectrum_figure(history[-1], history[:-1]).savefig(DOCS / "demo_spectrum.png")
    course_figure(history).savefig(DOCS / "demo_course.png")


if __name__ == "__main__":
    main()
