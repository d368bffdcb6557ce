"""What one measurement of α leaves behind: plain numbers that outlive the run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from alphareq_lightning.errors import SelectionError

FAILED = "failed"
"""Stands in a record file for the accuracy of a readout that was paid for and failed."""


@dataclass(frozen=True, kw_only=True)
class AlphaRecord:
    """One layer's spectrum at one moment of a training, with the settings of its fit."""

    alpha: float
    """Decay exponent; NaN when there was no fit."""
    r2: float
    """Weighted R² over the fitted ranks."""
    stderr: float
    """Standard error of the fitted line."""
    fit_range: tuple[int, int] | None
    """First and last fitted rank, one-based and inclusive; `None` when there was no fit."""
    num_samples: int
    """Images behind the spectrum, over all ranks."""
    num_features: int
    """Width ``d`` of the layer."""
    layer: str = ""
    """Where the features were taken, for example ``"backbone"`` or ``"fc:input"``."""
    epoch: int = 0
    global_step: int = 0
    bias_correction: str | None = None
    """How ``alpha_corrected`` was found: ``"inversion"`` or ``"richardson"``; `None` if not."""
    alpha_corrected: float | None = None
    """α without the bias of a finite sample; NaN if none was found, `None` if not asked for."""
    alpha_stderr: float | None = None
    """Standard error of ``alpha_corrected`` from the finite sample (``stderr`` is the line's)."""
    scores: dict[str, float] = field(default_factory=dict)
    """Other label-free scores by name, for example ``{"rankme": 41.3}``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What else the run had logged by then, for example ``{"val_loss": 12.7}``."""
    eigenvalues: tuple[float, ...] = ()
    """The first eigenvalues, largest first: enough to fit another window later."""
    seconds: float = 0.0
    """Time spent on the measurement by rank 0."""
    problem: str | None = None
    """Why there was no fit."""
    path: str | None = None
    """The checkpoint that carries this record; its name where records are ranked."""
    accuracy: float | None = None
    """Top-1 of a labelled readout in percent, where one was paid for; NaN if it failed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, strings, lists and dicts: safe in JSON and in checkpoints."""
        values = asdict(self)
        values["eigenvalues"] = list(self.eigenvalues)
        values["fit_range"] = None if self.fit_range is None else list(self.fit_range)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlphaRecord:
        """Rebuild a record; keys of later versions are ignored.

        Raises:
            SelectionError: If ``values`` is not a record.
        """
        known = {f.name for f in fields(cls)}
        try:
            record = cls(**{key: value for key, value in values.items() if key in known})
            fit_range = record.fit_range
            return replace(
                record,
                alpha=float(record.alpha),
                r2=float(record.r2),
                stderr=float(record.stderr),
                alpha_corrected=_float_or_none(record.alpha_corrected),
                alpha_stderr=_float_or_none(record.alpha_stderr),
                num_samples=int(record.num_samples),
                num_features=int(record.num_features),
                eigenvalues=tuple(record.eigenvalues),
                fit_range=None if fit_range is None else (int(fit_range[0]), int(fit_range[1])),
            )
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise SelectionError(f"not a record of α: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """As `to_dict`, with `None` for the NaN and infinities that JSON does not know."""
        values: dict[str, Any] = _finite(self.to_dict())
        if self.accuracy is not None and math.isnan(self.accuracy):
            values["accuracy"] = FAILED
        return values

    @classmethod
    def from_json(cls, values: Any) -> AlphaRecord:
        """Rebuild a record from `to_json`.

        Raises:
            SelectionError: If ``values`` is not a record.
        """
        return cls.from_dict(_with_nan(values))


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def read_records(path: str | PathLike[str]) -> list[AlphaRecord]:
    """The records of a file that `append_record` wrote, oldest first.

    A last line that a killed writer left unfinished is passed over.

    Raises:
        SelectionError: If the file is missing or holds something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"cannot read records from {path}: {error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(AlphaRecord.from_json(json.loads(line)))
        except (json.JSONDecodeError, SelectionError) as error:
            if number == len(lines):  # every finished line ends in a newline
                break
            raise SelectionError(f"{path}, line {number}, is not a record of α: {error}") from error
    return records


def append_record(path: str | PathLike[str], record: AlphaRecord) -> None:
    """Add a record to a file of one JSON object a line; safe from several processes at once.

    Raises:
        SelectionError: If the file cannot be written.
    """
    line = _line(record)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{os.fspath(path)}.lock"), open(path, "a+b") as file:
            cut_half_line(file)
            file.write(line)
    except OSError as error:
        raise SelectionError(f"cannot write a record to {path}: {error}") from error


def write_records(path: str | PathLike[str], records: Iterable[AlphaRecord]) -> None:
    """Write a file of records, whole or not at all; what was in it before is gone.

    Raises:
        SelectionError: If the file cannot be written.
    """
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"".join(map(_line, records)))
        os.replace(unfinished, target)
    except OSError as error:
        raise SelectionError(f"cannot write records to {path}: {error}") from error


def _line(record: AlphaRecord) -> bytes:
    return json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"


def cut_half_line(file: BinaryIO) -> None:
    """Remove what a killed writer left after the last newline."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _with_nan(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    values = dict(values)
    corrected = ("alpha_corrected", "alpha_stderr") if values.get("bias_correction") else ()
    for name in ("alpha", "r2", "stderr", *corrected):
        if name in values and values[name] is None:
            values[name] = math.nan
    if values.get("accuracy") == FAILED:
        values["accuracy"] = math.nan
    for name in ("scores", "metrics"):
        if isinstance(values.get(name), dict):
            values[name] = {k: math.nan if v is None else v for k, v in values[name].items()}
    return values
