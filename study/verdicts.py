"""The verdict on the stored trainings, without a label; then what the choice would have cost."""

from __future__ import annotations

from pathlib import Path

from alphareq_lightning.report.verdict import verdict_lines
from alphareq_lightning.selection import verdict
from study.records import records_of

HERE = Path(__file__).parent
FOLDERS = ("pilot/results", "results")


def main() -> None:
    folders = sorted(f for name in FOLDERS for f in (HERE / name).iterdir() if f.is_dir())
    for folder in folders:
        records = [record for path in sorted(folder.glob("*.json")) for record in records_of(path)]
        found = verdict(records)
        print(f"{folder.relative_to(HERE)}: {len(found.courses)} trainings")
        for line in verdict_lines(found):
            print(f"  {line}")
        last = max(record.global_step for record in records)
        paid = [r.accuracy for r in records if r.global_step == last and r.accuracy is not None]
        if found.choice is not None and found.choice.accuracy is not None and paid:
            print(f"  checked: {found.choice.accuracy:.1f} %, the best {max(paid):.1f} %")


if __name__ == "__main__":
    main()
