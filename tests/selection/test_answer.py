"""A verdict in words: whoever reads it can find the model that is meant."""

import json

from alphareq_lightning.selection import verdict

from plain_records import plain_record, with_values

HEALTHY = {0: 1.54, 200: 1.98, 400: 1.99, 1000: 1.83, 2000: 1.71, 4000: 1.57}


def training(run, error, later=None):
    return [
        plain_record(
            run=run,
            alpha=alpha,
            global_step=step,
            eigenvalues=tuple(n**-alpha for n in range(1, 101)),
            metrics={"val_twins_error": error},
        )
        for step, alpha in (HEALTHY | (later or {})).items()
    ]


def test_records_without_a_checkpoint_are_named_by_their_training():
    found = verdict([*training("a", 0.1), *training("b", 0.1)])
    assert next(found.lines()) == "verdict: step 4000 of a, α = 1.570"
    values = found.to_dict()
    assert (values["choice"], values["ties"]) == ("step 4000 of a", ["step 4000 of b"])


def test_the_phase_is_told():
    assert "phase: settling" in list(verdict(training("a", 0.1)).lines())
    found = verdict([*training("a", 0.1), *training("b", 0.2), *training("c", 0.3)[:1]])
    assert "phases: 2 settling, 1 unknown" in list(found.lines())
    assert "unknown: step 0 of c" in list(found.lines())
    assert "settling: step 4000 of a; step 4000 of b" in list(found.lines())
    assert str(found).splitlines() == list(found.lines())


def test_absolute_paths_stay_whole():
    kept = [with_values(training(n, 0.1)[-1], path=f"/runs/{n}.ckpt") for n in "ab"]
    found = verdict(kept, course=[*training("a", 0.1), *training("b", 0.1)])
    assert "settling: /runs/a.ckpt; /runs/b.ckpt" in str(found)
    assert "settling: a.ckpt; b.ckpt" in list(found.lines("/runs"))


def test_trainings_are_named_by_their_newest_checkpoint():
    kept = [
        with_values(r, path=f"runs/{r.run}/last.ckpt")
        for r in [training("a", 0.1)[-1], training("b", 0.2)[-1]]
    ]
    found = verdict(kept, course=[*training("a", 0.1, {5000: 1.5}), *training("b", 0.2)])
    assert "settling: runs/a/last.ckpt; runs/b/last.ckpt" in list(found.lines())
    json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert found.to_dict()["phases"] == {
        "runs/a/last.ckpt": "settling",
        "runs/b/last.ckpt": "settling",
    }
