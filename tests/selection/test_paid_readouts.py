import errno
import math
import os
import random
from contextlib import suppress

import pytest
from filelock import FileLock

from alphareq_lightning import AlphaRecord, DataError, SelectionError
from alphareq_lightning.errors import ReadoutError
from alphareq_lightning.records import read_records
from alphareq_lightning.selection import select_by_readouts
from alphareq_lightning.selection.paid_readouts import RESERVE

from plain_records import plain_record, with_values

ALPHAS = [0.4 + 0.06 * k for k in range(30)]


def records(alphas=ALPHAS):
    return [plain_record(alpha=alpha, path=f"{place}.ckpt") for place, alpha in enumerate(alphas)]


class Reads:
    def __init__(self, break_at=None, fail=()):
        self.paid, self.break_at, self.fail = [], break_at, fail

    def __call__(self, record):
        if len(self.paid) == self.break_at:
            raise KeyboardInterrupt
        self.paid.append(record.path)
        if record.path in self.fail:
            raise ReadoutError("no features")
        return 90 - 25 * (record.alpha - 1) ** 2


def test_the_best_is_found_for_less_than_all(tmp_path):
    read, told = Reads(), []
    selected = select_by_readouts(
        records(), read, tmp_path, report=lambda record, what: told.append(what)
    )
    assert selected.best.alpha == pytest.approx(1.0)
    assert selected.best.accuracy == pytest.approx(90)
    assert len(read.paid) == selected.search.num_readouts < 25
    assert told.count("skipped") == selected.search.num_saved == 30 - len(read.paid)
    written = read_records(tmp_path / "records.jsonl")
    assert written == selected.records
    assert sum(r.accuracy is not None for r in written) == len(read.paid)


def test_killed_in_the_middle_it_goes_on_and_pays_nothing_twice(tmp_path):
    straight = Reads()
    truth = select_by_readouts(records(), straight, tmp_path / "straight")
    first = Reads(break_at=7)
    with pytest.raises(KeyboardInterrupt):
        select_by_readouts(records(), first, tmp_path / "cut")
    second = Reads()
    again = select_by_readouts(records(), second, tmp_path / "cut")
    assert first.paid + second.paid == straight.paid
    assert again.records == truth.records
    third = Reads()
    assert select_by_readouts(records(), third, tmp_path / "cut").best == truth.best
    assert third.paid == []


def test_a_failed_readout_is_paid_and_the_search_goes_on(tmp_path):
    best = min(records(), key=lambda r: abs(r.alpha - 1)).path
    selected = select_by_readouts(records(), Reads(fail=[best]), tmp_path)
    assert selected.best.path != best
    assert selected.best.accuracy > 89
    assert math.isnan(selected.search.readouts[best].score)


def test_one_at_a_time(tmp_path):
    read = Reads()
    select_by_readouts(records(), read, tmp_path, margin=1, step=1)
    assert len(read.paid) < 25


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"top_k": 3}, r"holds readouts of other settings \(step=10\)"),
        ({"margin": 1}, r"belongs to another search \(top_k=5, margin=0, 0 models"),
        ({"records": records([1.0, 2.0])}, "models that are not among these"),
    ],
)
def test_another_search_in_the_same_folder(tmp_path, change, text):
    select_by_readouts(records(), Reads(), tmp_path)
    with pytest.raises(SelectionError, match=text):
        select_by_readouts(**{"records": records(), "read": Reads(), "folder": tmp_path, **change})


def test_two_at_work_in_one_folder(tmp_path):
    with (
        FileLock(tmp_path / "search.json.lock"),
        pytest.raises(SelectionError, match="another process is selecting in"),
    ):
        select_by_readouts(records(), Reads(), tmp_path)


def test_names(tmp_path):
    [one] = records([1.0])
    nameless = AlphaRecord.from_dict({**one.to_dict(), "path": None})
    with pytest.raises(SelectionError, match="two records of 0.ckpt; keep one"):
        select_by_readouts([one, one], Reads(), tmp_path)
    with pytest.raises(SelectionError, match="step 0 names no checkpoint"):
        select_by_readouts([nameless], Reads(), tmp_path)


def test_faults_of_the_data_are_not_paid_for(tmp_path):
    def read(record):
        raise DataError("the images are gone")

    with pytest.raises(DataError, match="gone"):
        select_by_readouts(records(), read, tmp_path)
    assert select_by_readouts(records(), Reads(), tmp_path).best.alpha == pytest.approx(1.0)


def test_no_readout_succeeds(tmp_path):
    with pytest.raises(SelectionError, match="none of the 2 readouts succeeded"):
        select_by_readouts(records([1.0, 2.0]), Reads(fail=["0.ckpt", "1.ckpt"]), tmp_path)


def test_readouts_of_other_settings_are_not_mixed(tmp_path):
    select_by_readouts(records(), Reads(), tmp_path, settings={"probe": "knn"})
    with pytest.raises(SelectionError, match=r"other settings \(probe='knn'\); choose another"):
        select_by_readouts(records(), Reads(), tmp_path, settings={"probe": "adam"})
    with pytest.raises(SelectionError, match=r"other settings \(seed=0\)"):
        select_by_readouts(records(), Reads(), tmp_path, seed=1, settings={"probe": "knn"})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(SelectionError, match="cannot read the settings"):
        select_by_readouts(records(), Reads(), tmp_path)


def test_a_model_without_a_readout_may_vanish(tmp_path):
    first = Reads(break_at=2)
    with pytest.raises(KeyboardInterrupt):
        select_by_readouts(records(), first, tmp_path)
    left = [r for r in records() if r.path in first.paid or r.alpha < 1.5]
    assert select_by_readouts(left, Reads(), tmp_path).best.alpha == pytest.approx(1.0)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SelectionError, match="cannot write to the folder"):
        select_by_readouts(records(), Reads(), tmp_path / "file")


@pytest.mark.parametrize("moment", range(1, 12))
def test_a_disk_that_is_full_for_a_moment_loses_no_readout(tmp_path, monkeypatch, moment):
    straight = select_by_readouts(records(), Reads(), tmp_path / "straight")
    read, real, calls = Reads(), os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with suppress(SelectionError):
            select_by_readouts(records(), read, tmp_path / "cut")
    again = select_by_readouts(records(), read, tmp_path / "cut")
    assert again.records == straight.records
    assert len(read.paid) == len(set(read.paid))


def test_settings_cut_by_a_full_disk_do_not_block_the_next_start(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SelectionError, match="cannot write to the folder .* No space left"):
            select_by_readouts(records(), Reads(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["search.json.lock"]
    assert select_by_readouts(records(), Reads(), tmp_path).best.alpha == pytest.approx(1.0)


def test_nothing_is_paid_for_without_room_for_its_outcome(tmp_path, monkeypatch):
    read, real = Reads(), os.fsync

    def fsync(descriptor):
        if RESERVE in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SelectionError, match="cannot write to the folder .* No space left"):
        select_by_readouts(records(), read, tmp_path)
    assert read.paid == []


# -- within a budget -------------------------------------------------------------------------------


def upside_down(n=30):
    """α near 1 is bad, and a score that tells nothing is there as well."""
    rng = random.Random(1)
    alphas = [0.5 + 0.05 * i for i in range(n)]
    return [
        plain_record(
            alpha=alpha,
            path=f"m{i}",
            scores={"rankme": rng.random()},
            r2=1.0,
            stderr=0.01,
            fit_range=(4, 50),
            num_samples=500,
            num_features=100,
        )
        for i, alpha in enumerate(alphas)
    ]


def test_a_budget_is_kept_and_finds_out_which_way_a_score_points(tmp_path):
    records, paid = upside_down(), []

    def read(record):
        paid.append(record.path)
        return 50 + 20 * abs(record.alpha - 1)

    found = select_by_readouts(records, read, tmp_path, budget=8)
    assert found.best.path == "m29"
    assert len(paid) == found.search.num_readouts <= 8
    assert found.search.num_saved == 30 - len(paid)
    assert found.believed in ("distance of α", "α")
    assert sum(r.accuracy is not None for r in read_records(found.file)) == len(paid)


def test_a_budgeted_search_that_was_killed_pays_nothing_twice(tmp_path):
    records, whole = upside_down(), []

    def read(record):
        whole.append(record.path)
        return 50 + 20 * abs(record.alpha - 1)

    select_by_readouts(records, read, tmp_path / "whole", budget=8)
    paid = []

    def dies(record):
        if len(paid) == 3:
            raise KeyboardInterrupt
        paid.append(record.path)
        return 50 + 20 * abs(record.alpha - 1)

    with pytest.raises(KeyboardInterrupt):
        select_by_readouts(records, dies, tmp_path / "cut", budget=8)
    again = []
    select_by_readouts(
        records,
        lambda r: again.append(r.path) or 50 + 20 * abs(r.alpha - 1),
        tmp_path / "cut",
        budget=8,
    )
    assert paid + again == whole
    with pytest.raises(SelectionError, match="holds readouts of other settings"):
        select_by_readouts(records, read, tmp_path / "cut", budget=9)


def test_models_without_alpha_are_not_read_out_within_a_budget(tmp_path):
    collapsed = [with_values(r, alpha=None, fit_range=None, r2=None) for r in upside_down(3)]
    with pytest.raises(SelectionError, match="none of the models has an α"):
        select_by_readouts(collapsed, lambda r: 1.0, tmp_path, budget=3)
