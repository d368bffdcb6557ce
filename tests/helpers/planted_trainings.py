"""Histories of trainings whose course is known; no test here."""

from plain_records import plain_record

HEALTHY = {0: 1.64, 200: 1.98, 400: 1.99, 1000: 1.83, 2000: 1.71, 4000: 1.57}
FAILING = {0: 1.54, 100: 1.10, 400: 1.60, 2000: 2.10, 4000: 2.26}
SLOW = {0: 1.51, 100: 1.52, 1000: 1.60, 2000: 1.68, 4000: 1.74}


def training(run, alphas=HEALTHY, *, rankme=40.0, error=0.1, **more):
    """Its RankMe is that at the end; where α rises to above 2 it has lost as much on its way."""
    end = max(alphas)
    lost = float(2 < alphas[end] == max(alphas.values()))
    ranks = {s: (rankme or 0.0) * (1 + lost - lost * s / max(end, 1)) for s in alphas}
    return [
        plain_record(
            run=run,
            path=f"{run}/step={step}.ckpt",
            global_step=step,
            **{
                "alpha": alpha,
                "r2": 0.99,
                "stderr": 0.005,
                "fit_range": (4, 50),
                "num_samples": 5000,
                "num_features": 100,
                "eigenvalues": tuple(n**-alpha for n in range(1, 101)),
                "scores": {} if rankme is None else {"rankme": ranks[step]},
                "metrics": {} if error is None else {"val_twins_error": error},
                **more,
            },
        )
        for step, alpha in alphas.items()
    ]


def trainings(*values):
    return [record for records in values for record in records]
