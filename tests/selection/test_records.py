import json
import math
import resource
import signal
from contextlib import contextmanager

import pytest

from alphareq_lightning import AlphaRecord, SelectionError
from alphareq_lightning.selection import append_record, read_records


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
        pytest.raises(SelectionError, match=f"cannot write a record to {path}: "),
    ):
        append_record(path, long)
    append_record(path, long)
    assert read_records(path) == [long, long]
