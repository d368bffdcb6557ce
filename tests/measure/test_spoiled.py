from alphareq_lightning.measure.measurement import spoiled

from plain_records import plain_record


def test_a_refit_makes_no_measurement_of_features_of_which_some_are_missing():
    whole = plain_record(eigenvalues=[1 / n for n in range(1, 100)])
    half = spoiled(whole, "lost 3 batches")
    assert (half.fit, half.problem) == (None, "lost 3 batches")
    assert whole.refit((4, 20)).fit is not None
    assert half.refit((4, 20)).fit is None
