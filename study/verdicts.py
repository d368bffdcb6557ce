"""The verdict on the stored trainings, without a label; then what the choice would have cost.

It also draws two pictures of the docs: what loggers are shown of one training.
"""

from __future__ import annotations

from pathlib import Path

from alphareq_lightning import AlphaRecord, course_figure, spectrum_figure
from alphareq_lightning.selection import verdict
from alphareq_lightning.selection.course import with_course
from study.records import records_of

HERE = Path(__file__).parent
FOLDERS = ("pilot/results", "results")
DOCS = HERE.parent / "docs"
SHOWN = "lambd=0.03,projector_dim=256.json"
"""Of ``turned``: the training whose figures the docs show."""


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
    history: list[AlphaRecord] = []
    for record in records_of(turned / SHOWN):
        history.append(with_course(record, history)[0])
    spectrum_figure(history[-1], history[:-1]).savefig(DOCS / "demo_spectrum.png")
    course_figure(history).savefig(DOCS / "demo_course.png")


if __name__ == "__main__":
    main()
