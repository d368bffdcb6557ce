import json
import math
import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from alphareq_lightning import AlphaRecord, SelectionError
from alphareq_lightning.records import (
    Corrected,
    Fit,
    append_record,
    read_records,
    write_records,
)
from alphareq_lightning.records.checkpoints import history_from_state

from plain_records import plain_record

FORMAT_1 = Path(__file__).parent / "format1.jsonl"
STUDY = Path(__file__).parents[2] / "study"


def record(**values):
    return plain_record(**{"scores": {"rankme": 40.0}, "eigenvalues": (3.0, 2.0), **values})


def test_round_trip_through_json():
    original = record(layer="backbone", epoch=3, metrics={"val_loss": 2.0})
    assert AlphaRecord.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_no_fit_is_one_thing_on_both_sides_of_a_file():
    unfit = replace(record(), fit=None, problem="collapse")
    values = unfit.to_dict()
    assert [values[name] for name in ("alpha", "r2", "stderr", "fit_range")] == [None] * 4
    assert AlphaRecord.from_dict(json.loads(json.dumps(values))) == unfit
    for coded in ({"alpha": math.nan}, {"alpha": None}, {"alpha": math.nan, "fit_range": None}):
        assert AlphaRecord.from_dict({**record().to_dict(), **coded}).fit is None


def test_readers_of_a_record_without_a_fit():
    unfit = replace(record(), fit=None, bias_correction="inversion")
    numbers = (unfit.alpha, unfit.r2, unfit.stderr, unfit.alpha_corrected, unfit.alpha_stderr)
    assert all(map(math.isnan, numbers))
    assert (unfit.fit_range, unfit.ranks, unfit.line()) == (None, "–", None)
    assert unfit.distance() == math.inf
    assert record().alpha_corrected is record().alpha_stderr is None


def test_no_line_is_drawn_where_no_eigenvalues_are_kept():
    eigenvalues = [n**-1.5 for n in range(1, 61)]
    ranks, line = record(eigenvalues=eigenvalues, fit_range=(11, 60)).line()
    assert ranks == list(range(11, 61))
    assert line == pytest.approx(eigenvalues[10:], rel=1e-12)
    ranks, _ = record(eigenvalues=eigenvalues, fit_range=(11, 600)).line()
    assert ranks[-1] == 60  # as far as they go
    collapsed = [*eigenvalues[:30], *[0.0] * 30]
    for kept in ((), eigenvalues[:10], eigenvalues[:12], collapsed, [math.nan] * 60, [-1.0] * 60):
        assert record(eigenvalues=kept, fit_range=(11, 60)).line() is None


def test_a_corrected_alpha_round_trip():
    corrected = replace(record(), corrected=Corrected(1.1, 0.2), bias_correction="inversion")
    assert (corrected.alpha_corrected, corrected.alpha_stderr) == (1.1, 0.2)
    assert AlphaRecord.from_dict(json.loads(json.dumps(corrected.to_json()))) == corrected


@pytest.mark.parametrize("name", ["alpha", "r2", "stderr", "fit_range", "alpha_corrected"])
def test_the_numbers_of_a_fit_are_given_together(name):
    with pytest.raises(TypeError, match=name):
        replace(record(), **{name: 1.0})


def test_what_a_newer_version_wrote_is_passed_on(tmp_path):
    newer = {"format": 7, "stage": "late", "course": {"peak": [2.0, 700], "drift": None}}
    path = tmp_path / "newer.jsonl"
    path.write_text(json.dumps({**record().to_json(), **newer}) + "\n")
    [read] = read_records(path)
    assert read.unknown == {name: newer[name] for name in ("stage", "course")}
    append_record(path, replace(read, path="a.ckpt"))
    again = json.loads(path.read_text().splitlines()[1])
    assert {name: again[name] for name in newer} == newer
    assert again["path"] == "a.ckpt"
    state, _ = history_from_state({"history": [read.to_dict()]})
    assert state == [read]


def test_a_record_says_its_format():
    assert record().to_json()["format"] == 2
    assert AlphaRecord.from_dict({**record().to_dict(), "format": 1}).format == 2


def test_what_is_not_known_is_plain_and_of_a_bounded_size():
    tower = [1]
    for _ in range(40):
        tower = [tower, tower]
    itself = []
    itself.append(itself)
    for value in (tower, itself, [1.0] * 70_000, {1, 2}, {(1, 2): 3}):
        with pytest.raises(SelectionError, match="not a record of α: "):
            AlphaRecord.from_dict({**record().to_dict(), "new": value})
    kept = AlphaRecord.from_dict({**record().to_dict(), "new": [math.inf, math.nan, 1.5]})
    assert kept.unknown == {"new": [None, None, 1.5]}


def test_an_alpha_without_its_window_is_refused():
    with pytest.raises(SelectionError, match="expected the ranks on which alpha=0.9 was fitted"):
        AlphaRecord.from_dict({**record().to_dict(), "fit_range": None})


def test_a_file_of_format_1(tmp_path):
    """Written by the version before there was a format number."""
    fitted, failed, of_others, uncorrected = read_records(FORMAT_1)
    assert fitted.fit == Fit(0.9623469571161022, 0.9690389556344028, 0.06501593913886675, (2, 10))
    assert fitted.corrected == Corrected(0.9056797742976905, 0.12291613161556714)
    assert fitted.accuracy == 81.5
    assert failed.fit is failed.corrected is None
    assert failed.bias_correction == "inversion"
    assert failed.problem.endswith("at most 1 dimensions (collapse)")
    assert math.isnan(failed.accuracy)
    assert math.isnan(failed.scores["condition_number"])
    assert (of_others.path_step, of_others.alpha_corrected) == (9, None)
    assert uncorrected.corrected is None
    assert math.isnan(uncorrected.alpha_corrected)
    copy = tmp_path / "records.jsonl"
    write_records(copy, [fitted, of_others, uncorrected])
    assert read_records(copy) == [fitted, of_others, uncorrected]


STORED = list((STUDY / "results").rglob("*.json"))


def test_alpha_of_every_stored_spectrum_of_the_study(record_property):
    """All layers of all steps, as records: α is what it was, and a refit finds it again."""
    count = 0
    for path in STORED:
        rows = json.loads(path.read_text())
        for row in rows["steps"]:
            for name, layer in row["layers"].items():
                values = {"num_features": 512, "layer": name, **layer}
                read = AlphaRecord.from_dict(values)
                assert read.alpha == pytest.approx(layer["alpha"], abs=1e-12, nan_ok=True)
                # Spectra have four digits: over ranks 4 to 12 that is .0012 of a slope at most.
                if read.fit is not None:
                    again = read.refit(read.fit_range).alpha
                    assert again == pytest.approx(read.alpha, abs=1.3e-3)
                count += 1
    record_property("records", count)
    assert count > 700


@pytest.mark.parametrize(
    "values", [{}, {"alpha": 1.0}, None, {**record().to_dict(), "fit_range": "x"}]
)
def test_refuses_what_is_no_record(values):
    with pytest.raises(SelectionError, match="not a record of α"):
        AlphaRecord.from_dict(values)


def test_files_of_records(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    first, second = record(path="a.ckpt"), record(path="b.ckpt", accuracy=81.5)
    append_record(path, first)
    append_record(path, second)
    assert read_records(path) == [first, second]
    write_records(path, [second])
    assert read_records(path) == [second]


def test_nan_is_no_word_of_json(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record(alpha=math.nan, r2=math.nan, scores={"rankme": math.nan}))
    assert "NaN" not in path.read_text()
    append_record(path, record(accuracy=math.nan))
    back, failed = read_records(path)
    assert math.isnan(failed.accuracy)
    assert back.accuracy is None
    assert math.isnan(back.alpha)
    assert math.isnan(back.scores["rankme"])


def test_half_a_line_of_a_killed_writer(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record(epoch=1))
    with path.open("a") as file:
        file.write('{"alpha": 0.9, "r')
    assert [r.epoch for r in read_records(path)] == [1]
    append_record(path, record(epoch=2))
    assert [r.epoch for r in read_records(path)] == [1, 2]


def append_many(path, start):
    for epoch in range(start, start + 50):
        append_record(path, record(epoch=epoch))


def test_several_writers_at_once(tmp_path):
    path = tmp_path / "records.jsonl"
    threads = [threading.Thread(target=append_many, args=(path, 50 * k)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.epoch for r in read_records(path)) == list(range(200))


def test_files_that_hold_something_else(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n')
    with pytest.raises(SelectionError, match=r"a.jsonl, line 1, is not a record"):
        read_records(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(SelectionError, match="line 1, is not a record of α: 'utf-8' codec"):
        read_records(path)
    with pytest.raises(SelectionError, match="cannot read records from .*gone"):
        read_records(tmp_path / "gone.jsonl")
    with pytest.raises(SelectionError, match="cannot write records to"):
        append_record("/dev/full/records.jsonl", record())
    with pytest.raises(SelectionError, match="cannot write records to"):
        write_records("/dev/full/records.jsonl", [record()])


@contextmanager
def files_end_at(num_bytes):
    """No file of this process may grow past ``num_bytes``, as on a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_leaves_the_file_usable(tmp_path):
    path = tmp_path / "records.jsonl"
    long = record(eigenvalues=tuple(1 / n for n in range(1, 513)))
    append_record(path, long)
    with (
        files_end_at(path.stat().st_size + 2000),
        pytest.raises(SelectionError, match=f"cannot write records to {path}: "),
    ):
        append_record(path, long)
    append_record(path, long)
    assert read_records(path) == [long, long]


def test_files_of_something_else_are_not_written_to(tmp_path):
    for name, content in (
        ("log.txt", b"one\nlast line"),
        ("weights.ckpt", b"PK\x03\x04xxx"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SelectionError, match=f"{name} is no file of records; nothing was"):
            append_record(path, record())
        assert path.read_bytes() == content


def test_a_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record(epoch=1))
    path.write_bytes(path.read_bytes().rstrip())
    append_record(path, record(epoch=2))
    assert [r.epoch for r in read_records(path)] == [1, 2]


@pytest.mark.parametrize("half", [b'{"alpha": 0.9, "r', b'{"format": 2, "al'])
def test_a_writer_killed_in_its_first_line_is_no_dead_end(tmp_path, half):
    path = tmp_path / "records.jsonl"
    path.write_bytes(half)
    append_record(path, record(epoch=2))
    assert [r.epoch for r in read_records(path)] == [2]


def test_a_byte_order_mark(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_records(path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"scores": None},
        {"scores": [1]},
        {"scores": {"rankme": "x"}},
        {"metrics": {"val_loss": "x"}},
        {"layer": 3},
        {"global_step": "a"},
        {"accuracy": "good"},
        {"path": 5},
        {"eigenvalues": "x"},
        {"fit_range": [0, -3]},
        {"alpha": math.inf},
        {"epoch": math.inf},
        {"global_step": math.nan},
        {"num_samples": 10**400},
        {"alpha": 10**400},
        {"eigenvalues": [10**400]},
        {"fit_range": [1, math.inf]},
        {"scores": {"rankme": 10**400}},
        {"seconds": [[]]},
        {"bias_correction": [[]]},
        {"epoch": 2**70},
        {"eigenvalues": [1.0] * 70_000},
    ],
    ids=lambda change: str(change)[:40],
)
def test_every_field_is_checked(change):
    with pytest.raises(SelectionError, match="not a record of α"):
        AlphaRecord.from_dict({**record().to_dict(), **change})


def test_a_line_of_brackets(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(SelectionError, match="line 1, is not a record"):
        read_records(path)


def test_infinity_in_a_file(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in ('"epoch": Infinity', f'"epoch": 1{"0" * 400}', f'"alpha": 1{"0" * 400}'):
        values = json.dumps(record().to_json())[:-1]
        path.write_text(f"{values}, {text}}}\n")
        with pytest.raises(SelectionError, match="line 1, is not a record of α"):
            read_records(path)


def test_a_link_and_the_file_share_one_lock(tmp_path):
    path, link = tmp_path / "records.jsonl", tmp_path / "link" / "other.jsonl"
    link.parent.mkdir()
    append_record(path, record(epoch=1))
    link.symlink_to(path)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(f"{path}.lock"):
            appended = pool.submit(append_record, link, record(epoch=2))
            with pytest.raises(TimeoutError):
                appended.result(timeout=0.5)
        appended.result()
    assert [r.epoch for r in read_records(path)] == [1, 2]
    write_records(link, [record(epoch=3)])
    assert link.is_symlink()
    assert [r.epoch for r in read_records(path)] == [3]


def test_a_long_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    long = record(metrics={f"metric {n} {'x' * 60}": 0.123456789 for n in range(15_000)})
    append_record(path, long)
    assert path.stat().st_size > 2**20
    path.write_bytes(path.read_bytes().rstrip())
    append_record(path, record(epoch=2))
    assert read_records(path) == [long, record(epoch=2)]


def test_a_last_line_that_is_too_long_is_not_deleted(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record())
    with path.open("ab") as file:
        file.write(b"x" * (2**24 + 1))
    before = path.stat().st_size
    with pytest.raises(SelectionError, match="is longer than 16777216 bytes and is no record"):
        append_record(path, record(epoch=2))
    assert path.stat().st_size == before
    with pytest.raises(SelectionError, match="line 2, is not a record of α: it is longer than"):
        read_records(path)


def test_a_file_that_begins_with_a_blank_line(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record(epoch=1))
    path.write_bytes(b"\n  \n" + path.read_bytes())
    append_record(path, record(epoch=2))
    assert [r.epoch for r in read_records(path)] == [1, 2]


@pytest.mark.timeout(20)
def test_a_pipe_is_no_file_of_records(tmp_path):
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    with pytest.raises(SelectionError, match="cannot read records from .* is no regular file"):
        read_records(path)
    with pytest.raises(SelectionError, match="cannot write records to .* is no regular file"):
        append_record(path, record())


def test_a_record_that_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(path, record())
    too_long = replace(record(), unknown={"note": "x" * 2**24})
    with pytest.raises(SelectionError, match="expected a record of at most 16777216 bytes, got"):
        append_record(path, too_long)
    assert read_records(path) == [record()]


def test_the_place_in_a_course_is_kept():
    place = {"phase": "settling", "drift": -0.12, "untrained_alpha": 1.54}
    told = record(**place)
    assert place.items() <= told.to_dict().items()
    assert AlphaRecord.from_dict(json.loads(json.dumps(told.to_json()))) == told
    older = told.to_dict()
    for name in place:
        del older[name]
    assert AlphaRecord.from_dict(older) == record()
    assert [getattr(record(), name) for name in place] == ["", None, None]


@pytest.mark.parametrize("values", [{"phase": 3}, {"drift": "0.1"}, {"untrained_alpha": [1]}])
def test_a_place_in_a_course_that_is_none_is_refused(values):
    with pytest.raises(SelectionError, match="not a record of α: "):
        record(**values)
