"""What came out of a sweep: records for `rank` and `report`, and the table at its end."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.table import Table
from rich.text import Text

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.records.record import hyperparameters
from alphareq_lightning.selection import mixtures
from alphareq_lightning.sweep.config import IDENTITY
from alphareq_lightning.sweep.pruner import ALPHA, AlphaIntervalPruner, ended
from alphareq_lightning.sweep.slots import ERROR, SLOT, given_up, is_dead, occupies
from alphareq_lightning.sweep.trial import OUTCOME, PAID, PATH, READ_OUT, RECORD, SECONDS, STOPPED
from alphareq_lightning.text import one_line, printable

SHOWN_ROWS = 12


@dataclass(frozen=True)
class SweepSummary:
    """How far a sweep is, and what it has found."""

    name: str
    num_slots: int
    """Configurations in the plan."""
    num_done: int
    best: dict[str, Any] | None
    """Trial, params, α, accuracy in percent and checkpoint of the best readout."""
    interval: tuple[float | None, float | None]
    """Lowest and highest α that are worth a readout; `None` where it is open."""
    paid: int
    """Readouts, failed ones included."""
    saved: int
    """Trained models that were not read out."""
    stopped_early: int
    failed: list[str]
    """What went wrong, by trial."""
    died: int
    """Trials whose worker died; their slots were run again."""
    cautions: list[str]
    """Why α of the trials may not compare."""
    seconds: dict[str, float]
    """Spent by all workers on training, on α and on readouts."""
    trials: list[dict[str, Any]]
    """Every trial that ended, in order."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, safe in JSON."""
        return asdict(self)

    def table(self) -> Group:
        """For the terminal."""
        rows = sorted((t for t in self.trials if t["accuracy"]), key=lambda t: -t["accuracy"])
        keys = list(dict.fromkeys(key for row in rows for key in row["params"]))
        title = f"{self.name}: the best of {len(rows)} readouts"
        # Text, and no strings: rich would read brackets in names and errors as markup.
        table = Table(title=Text(printable(title), style="table.title"))
        for header in ("trial", *keys, "α", "R²", "top-1"):
            table.add_column(Text(printable(header)), justify="right")
        for row in rows[:SHOWN_ROWS]:
            values = (_text(row["params"].get(key)) for key in keys)
            figures = (_fixed(row["alpha"]), _fixed(row["r2"]), f"{row['accuracy']:.2f} %")
            cells = map(printable, (str(row["trial"]), *values, *figures))
            table.add_row(*map(Text, cells))
        return Group(table, *map(Text, map(printable, self._lines())))

    def _lines(self) -> list[str]:
        low, high = (_text(bound) for bound in self.interval)
        seconds = ", ".join(f"{value:.0f} s {name}" for name, value in self.seconds.items())
        lines = [
            f"{self.num_done} of {self.num_slots} configurations done: {self.paid} readouts paid, "
            f"{self.saved} saved, {self.stopped_early} stopped early, {len(self.failed)} failed",
            f"interval of α worth a readout: {low} to {high}   ({seconds})",
            *(f"failed: {reason}" for reason in self.failed),
            *(f"caution: {caution}" for caution in self.cautions),
        ]
        if self.died:
            lines.append(f"{self.died} trials ended with their worker and were queued again")
        if self.best is not None:
            params = ", ".join(f"{k}={_text(v)}" for k, v in self.best["params"].items())
            lines.append(f"best: trial {self.best['trial']}, {params}: {self.best['path']}")
        return lines


def summarize(study: Study) -> SweepSummary:
    """Count the trials of a study that a sweep has begun."""
    trials = study.get_trials(deepcopy=False)
    ours = [t for t in trials if SLOT in t.user_attrs]
    finished = sorted((t for t in ours if occupies(t) and t.state.is_finished()), key=ended)
    outcomes = Counter(t.user_attrs.get(OUTCOME) for t in finished if _pruned_or_read_out(t))
    lost = given_up(ours)
    rows = [_row(t) for t in finished]
    read_out = [row for row in rows if row["accuracy"] is not None]
    failed = [f"trial {t.number}: {one_line(t.user_attrs[ERROR])}" for t in finished if _failed(t)]
    failed += [f"slot {slot}: its workers died again and again" for slot in sorted(lost)]
    seconds: Any = Counter()
    for trial in finished:
        spent = trial.user_attrs.get(SECONDS, {})
        seconds.update({str(name): float(value) for name, value in spent.items()})
    records = (t.user_attrs[RECORD] for t in finished if RECORD in t.user_attrs)
    bounds = AlphaIntervalPruner(**search_options(study)).interval(study)
    low, high = (bound if math.isfinite(bound) else None for bound in bounds)
    return SweepSummary(
        name=study.study_name,
        num_slots=len({t.user_attrs[SLOT] for t in ours}),
        num_done=len({t.user_attrs[SLOT] for t in finished} | lost),
        best=max(read_out, key=lambda row: row["accuracy"], default=None),
        interval=(low, high),
        paid=sum(bool(t.user_attrs.get(PAID)) for t in finished),
        saved=sum(outcomes.values()) - outcomes[READ_OUT] - outcomes[STOPPED],
        stopped_early=outcomes[STOPPED],
        failed=failed,
        died=sum(is_dead(t) for t in ours),
        cautions=mixtures(map(AlphaRecord.from_dict, records)),
        seconds=dict(seconds),
        trials=rows,
    )


def search_options(study: Study) -> dict[str, Any]:
    """``top_k`` and ``margin`` of a sweep's interval search; nothing where there was none."""
    search = study.user_attrs.get(IDENTITY, {}).get("search", {})
    if search.get("top_k") == 0:
        return {}
    return {name: int(search[name]) for name in ("top_k", "margin") if name in search}


def study_records(study: Study) -> list[AlphaRecord]:
    """The record of every trained model of a sweep, in the order of completion.

    Each has the model's checkpoint as ``path``, its readout as ``accuracy`` (`None` where it was
    saved), and its parameters in ``params``, the numbers among them in ``metrics`` too. Trainings
    that were stopped early are left out: their α is that of another epoch.
    """
    records = []
    for trial in sorted(study.get_trials(deepcopy=False), key=ended):
        if RECORD not in trial.user_attrs or not _pruned_or_read_out(trial):
            continue
        record = AlphaRecord.from_dict({**trial.user_attrs[RECORD], PATH: trial.user_attrs[PATH]})
        params = {key: float(v) for key, v in trial.params.items() if isinstance(v, int | float)}
        metrics = {**record.metrics, **params}
        own = hyperparameters(trial.params)
        records.append(replace(record, accuracy=_accuracy(trial), metrics=metrics, params=own))
    return records


def study_configurations(study: Study) -> dict[str, str]:
    """What each training of a sweep over seeds was trained with, its seed aside, by its ``run``."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        params = {k: v for k, v in trial.params.items() if "seed" not in k.rpartition(".")[2]}
        run = trial.user_attrs.get(RECORD, {}).get("run")
        if run and len(params) < len(trial.params):
            found[run] = json.dumps(params, sort_keys=True, default=str)
    return found


def describe(trial: FrozenTrial) -> str:
    """A trial that ended, in a line."""
    params = ", ".join(f"{key}={_text(value)}" for key, value in trial.params.items())
    alpha = trial.user_attrs.get(ALPHA)
    measured = "" if alpha is None else f"  α {alpha:.3f}"
    if _failed(trial):
        outcome = f"failed: {trial.user_attrs[ERROR]}"
    elif trial.state == TrialState.COMPLETE:
        outcome = f"{_accuracy(trial):.2f} %"
    else:
        outcome = f"no readout: {trial.user_attrs.get(OUTCOME, trial.state.name.lower())}"
    return printable(f"trial {trial.number}: {params}{measured}  {outcome}")


def _row(trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "trial": trial.number,
        "slot": attributes[SLOT],
        "params": trial.params,
        "alpha": _number(attributes.get(ALPHA)),
        "r2": _number(attributes.get("r2")),
        "accuracy": _accuracy(trial),
        "outcome": "failed" if _failed(trial) else attributes.get(OUTCOME),
        "path": attributes.get(PATH),
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _accuracy(trial: FrozenTrial) -> float | None:
    # A pruned trial has a value, too: the last it reported, which is a distance of α.
    return float(trial.values[0]) if trial.state == TrialState.COMPLETE else None


def _pruned_or_read_out(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and ERROR in trial.user_attrs


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _text(value: Any) -> str:
    if value is None:
        return "open"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
