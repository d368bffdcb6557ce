"""Records as a measurement leaves them, from flat values; no test here."""

from alphareq_lightning import AlphaRecord

FLAT = {
    "alpha": 0.9,
    "r2": 0.99,
    "stderr": 0.01,
    "fit_range": (4, 51),
    "num_samples": 1000,
    "num_features": 256,
}


def plain_record(**values):
    return AlphaRecord.from_dict({**FLAT, **values})


def with_values(old, **values):
    return AlphaRecord.from_dict({**old.to_dict(), **values})
