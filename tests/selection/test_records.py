import json
import math

import pytest

from alphareq_lightning import AlphaRecord, SelectionError


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
