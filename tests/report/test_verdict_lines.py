"""A verdict in words: whoever reads it can find the model that is meant."""

from alphareq_lightning.report.verdict import verdict_lines, verdict_values
from alphareq_lightning.selection import verdict

from plain_records import plain_record

HEALTHY = {0: 1.54, 200: 1.98, 400: 1.99, 1000: 1.83, 2000: 1.71, 4000: 1.57}


def training(run, error):
    return [
        plain_record(
            run=run,
            alpha=alpha,
            global_step=step,
            eigenvalues=tuple(n**-alpha for n in range(1, 101)),
            metrics={"val_twins_error": error},
        )
        for step, alpha in HEALTHY.items()
    ]


def test_records_without_a_checkpoint_are_named_by_their_training():
    found = verdict([*training("a", 0.1), *training("b", 0.1)])
    assert next(verdict_lines(found)) == "verdict: step 4000 of a, α = 1.570"
    values = verdict_values(found)
    assert (values["choice"], values["ties"]) == ("step 4000 of a", ["step 4000 of b"])


def test_the_phase_is_told():
    assert "phase: settling" in list(verdict_lines(verdict(training("a", 0.1))))
    found = verdict([*training("a", 0.1), *training("b", 0.2), *training("c", 0.3)[:1]])
    assert "phases: 2 settling, 1 unknown" in list(verdict_lines(found))
