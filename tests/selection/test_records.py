import json
import math
import threading

import pytest

from alphareq_lightning import AlphaRecord, SelectionError
from alphareq_lightning.selection import append_record, read_records, write_records


def record(**values):
    defaults = {
        "alpha": 0.9,
        "r2": 0.99,
        "stderr": 0.01,
        "fit_range": (4, 51),
        "num_samples": 1000,
        "num_features": 256,
        "scores": {"rankme": 40.0},
        "eigenvalues": (3.0, 2.0),
    }
    return AlphaRecord(**{**defaults, **values})


def test_round_trip_through_json():
    original = record(layer="backbone", epoch=3, metrics={"val_loss": 2.0})
    assert AlphaRecord.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_no_fit_round_trip():
    values = json.loads(json.dumps(record(alpha=math.nan, fit_range=None).to_dict()))
    back = AlphaRecord.from_dict(values)
    assert math.isnan(back.alpha)
    assert back.fit_range is None


def test_keys_of_later_versions_are_ignored():
    assert AlphaRecord.from_dict({**record().to_dict(), "from_the_future": 1}) == record()


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
    with pytest.raises(SelectionError, match="cannot read records from"):
        read_records(path)
    with pytest.raises(SelectionError, match="cannot read records from .*gone"):
        read_records(tmp_path / "gone.jsonl")
    with pytest.raises(SelectionError, match="cannot write a record to"):
        append_record("/dev/full/records.jsonl", record())
    with pytest.raises(SelectionError, match="cannot write records to"):
        write_records("/dev/full/records.jsonl", [record()])
