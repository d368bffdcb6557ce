"""What one measurement of α leaves behind: plain numbers that outlive the run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.files import opened, written_beside
from alphareq_lightning.text import one_line, shown

LOCK_SECONDS = 30
LONGEST_LINE = 2**24
"""Bytes; a record of 512 eigenvalues has 12,000. A longer line is no record, read or written."""
LARGEST_COUNT = 2**63
MOST_VALUES = 2**16
"""Eigenvalues, scores or metrics of one record, and characters of a text in it."""
_T = TypeVar("_T")
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
    num_images: int | None = None
    """Different images behind them, where it is known: fewer if several views of each were seen."""
    run: str = ""
    """Which training it belongs to; empty in records from before there was this field."""
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
    path_step: int | None = None
    """Step of the weights in ``path`` where no measurement was made of them: then α is of the
    weights at ``global_step``."""
    accuracy: float | None = None
    """Top-1 of a labelled readout in percent, where one was paid for; NaN if it failed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, strings, lists and dicts: safe in JSON and in checkpoints."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["scores"], values["metrics"] = dict(self.scores), dict(self.metrics)
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
            record = replace(
                record,
                alpha=_number(record.alpha),
                r2=_number(record.r2),
                stderr=_number(record.stderr),
                alpha_corrected=_or_none(_number, record.alpha_corrected),
                alpha_stderr=_or_none(_number, record.alpha_stderr),
                num_samples=_whole(record.num_samples),
                num_features=_whole(record.num_features),
                num_images=_or_none(_whole, record.num_images),
                run=_text(record.run),
                layer=_text(record.layer),
                epoch=_whole(record.epoch),
                global_step=_whole(record.global_step),
                bias_correction=_or_none(_text, record.bias_correction),
                scores=_numbers(record.scores),
                metrics=_numbers(record.metrics),
                eigenvalues=tuple(map(_number, _few(record.eigenvalues))),
                seconds=_number(record.seconds),
                fit_range=_or_none(_window, record.fit_range),
                problem=_or_none(_text, record.problem),
                path=_or_none(_text, record.path),
                path_step=_or_none(_whole, record.path_step),
                accuracy=_or_none(_number, record.accuracy),
            )
        except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise SelectionError(f"not a record of α: {one_line(error)}") from error
        if math.isinf(record.alpha):
            raise SelectionError("not a record of α: α is infinite")
        return record

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


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"expected a number, got {shown(value)}")
    return float(value)


def _whole(value: Any) -> int:
    if _number(value) != value or abs(value) > LARGEST_COUNT:
        raise ValueError(f"expected a whole number, got {shown(value)}")
    return int(value)


def _few(values: Any) -> Any:
    """Refuse what would take for good: a file of 1 MB can name one list a million times."""
    if isinstance(values, str | bytes) or len(values) > MOST_VALUES:
        raise ValueError(f"expected at most {MOST_VALUES} values, got {shown(values)}")
    return values


def _numbers(values: Any) -> dict[str, float]:
    return {_text(name): _number(value) for name, value in dict(_few(values)).items()}


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_VALUES:
        raise TypeError(f"expected a text, got {shown(value)}")
    return value


def _window(value: Any) -> tuple[int, int]:
    first, last = map(_whole, _few(value))
    if not 1 <= first < last:
        raise ValueError(f"{shown(value)} are no ranks")
    return first, last


def _or_none(read: Callable[[Any], _T], value: Any) -> _T | None:
    return None if value is None else read(value)


def read_records(path: str | PathLike[str]) -> list[AlphaRecord]:
    """The records of a file that `append_record` wrote, oldest first.

    A last line that a killed writer left unfinished is passed over.

    Raises:
        SelectionError: If the file is missing or holds something else.
    """
    records = []
    try:
        with opened(path) as file:
            for number, line in enumerate(_lines(file), start=1):
                try:
                    if line.strip():
                        records.append(_record(line))
                except (ValueError, RecursionError, SelectionError) as error:
                    if not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
                        break
                    raise SelectionError(
                        f"{path}, line {number}, is not a record of α: {one_line(error)}"
                    ) from error
    except OSError as error:
        raise SelectionError(f"cannot read records from {path}: {error}") from error
    return records


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long its beginning."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def _record(line: bytes) -> AlphaRecord:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"it is longer than {LONGEST_LINE} bytes")
    return AlphaRecord.from_json(json.loads(line.decode("utf-8-sig")))


def append_record(path: str | PathLike[str], record: AlphaRecord) -> None:
    """Add a record to a file of one JSON object a line; safe from several processes at once.

    Raises:
        SelectionError: If the file cannot be written.
    """
    line = _line(record)
    with _locked(path) as real:
        if os.path.exists(real):
            with opened(real):
                pass  # refuses what is no file
        with open(real, "a+b") as file:
            _check_is_ours(path, file)
            if _ends_in_half_a_line(path, file):
                cut_half_line(file)
            file.write(line)


@contextmanager
def _locked(path: str | PathLike[str]) -> Iterator[str]:
    """Alone in writing to a file; its real name, so that links to it share the lock."""
    real = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(real), exist_ok=True)
        with FileLock(f"{real}.lock", timeout=LOCK_SECONDS):
            yield real
    except Timeout as error:
        raise SelectionError(f"cannot write records to {path}: it is locked") from error
    except OSError as error:
        raise SelectionError(f"cannot write records to {path}: {error}") from error


def _check_is_ours(path: str | PathLike[str], file: BinaryIO) -> None:
    """Refuse to write into a file of something else."""
    file.seek(0)
    first = next((line for line in _lines(file) if line.strip()), b"")
    if not first or _is_record(first) or (first.startswith(b'{"alpha"') and first[-1:] != b"\n"):
        return
    raise SelectionError(f"{path} is no file of records; nothing was written to it")


def _ends_in_half_a_line(path: str | PathLike[str], file: BinaryIO) -> bool:
    """Whether a killed writer left half a line; a whole one without its end gets it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - LONGEST_LINE - 1, 0))
    last = file.read().split(b"\n")[-1]
    if len(last) > LONGEST_LINE:
        raise SelectionError(
            f"the last line of {path} is longer than {LONGEST_LINE} bytes and is no record; "
            "nothing was written to it"
        )
    if not last:
        return False
    if _is_record(last):
        file.write(b"\n")
        return False
    return True


def _is_record(line: bytes) -> bool:
    try:
        _record(line)
    except (ValueError, RecursionError, SelectionError):
        return False
    return True


def write_records(path: str | PathLike[str], records: Iterable[AlphaRecord]) -> None:
    """Write a file of records, whole or not at all; what was in it before is gone.

    Raises:
        SelectionError: If the file cannot be written.
    """
    lines = b"".join(map(_line, records))
    with _locked(path) as real, written_beside(real) as unfinished:
        unfinished.write_bytes(lines)


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
