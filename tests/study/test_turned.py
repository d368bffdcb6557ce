"""The verdict on stored trainings, whose accuracies it does not see."""

from alphareq_lightning.selection import verdict
from study.records import records_of
from study.table import RESULTS


def test_of_five_that_were_not_in_the_grid_it_takes_the_best_and_names_what_fails():
    files = sorted((RESULTS / "turned").glob("*.json"))
    records = [record for file in files for record in records_of(file)]
    found = verdict(records)
    ends = {r.run: r.accuracy for r in records if r.global_step == 2000}
    assert len(ends) == 5
    assert found.choice.run == max(ends, key=ends.__getitem__)
    assert [r.run.split("lambd=")[1].split(",")[0] for r in found.failing] == ["0.2", "1.0"]
