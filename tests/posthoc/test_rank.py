"""What a ranking shows of its records."""

import math

from rich.console import Console

from alphareq_lightning import AlphaRecord
from alphareq_lightning.posthoc.rank import ranking_rows, ranking_table


def record(alpha, **values):
    settings = {"r2": 1.0, "stderr": 0.0, "fit_range": (4, 50)}
    return AlphaRecord(alpha=alpha, num_samples=1000, num_features=256, **settings, **values)


def shown(records):
    console = Console(width=160)
    with console.capture() as captured:
        console.print(ranking_table(records, 1.0))
    return captured.get()


def test_corrected_alpha_is_shown_where_there_is_one():
    some = record(0.9, alpha_corrected=1.02, alpha_stderr=0.03, bias_correction="inversion")
    none = record(0.8, alpha_corrected=math.nan, alpha_stderr=math.nan)
    rows = ranking_rows([some, none, record(0.7)], 1.0)
    assert [row["alpha_corrected"] for row in rows] == [1.02, None, None]
    assert [row["alpha_stderr"] for row in rows] == [0.03, None, None]
    assert "α corr." in shown([some, none])
    assert "1.020 ± 0.030" in shown([some, none])
    assert "± –" not in shown([some, none])
    assert "alpha_corrected" not in ranking_rows([record(0.7)], 1.0)[0]
    assert "α corr." not in shown([record(0.7)])
