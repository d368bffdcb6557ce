"""Files of records: one JSON object a line, appended to by several processes at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import BinaryIO

from filelock import FileLock, Timeout

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.files import opened, written_beside
from alphareq_lightning.records.record import AlphaRecord
from alphareq_lightning.text import one_line

LOCK_SECONDS = 30
LONGEST_LINE = 2**24
"""Bytes; a record of 512 eigenvalues has 12,000. A longer line is no record, read or written."""
BEGINNINGS = (b'{"format"', b'{"alpha"')
"""Of a record as it is written now, and as it was before there was a format number."""


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
    return AlphaRecord.from_dict(json.loads(line.decode("utf-8-sig")))


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
            _mend_end(path, file)
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
    begun = first.startswith(BEGINNINGS) and first[-1:] != b"\n"
    if not first or _is_record(first) or begun:
        return
    raise SelectionError(f"{path} is no file of records; nothing was written to it")


def _mend_end(path: str | PathLike[str], file: BinaryIO) -> None:
    """Remove half a line that a killed writer left; a whole one without its end gets it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - LONGEST_LINE - 1, 0))
    last = file.read().split(b"\n")[-1]
    if len(last) > LONGEST_LINE:
        raise SelectionError(
            f"the last line of {path} is longer than {LONGEST_LINE} bytes and is no record; "
            "nothing was written to it"
        )
    if last and _is_record(last):
        file.write(b"\n")
    elif last:
        file.truncate(end - len(last))


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
    line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
    if len(line) > LONGEST_LINE:
        raise SelectionError(f"expected a record of at most {LONGEST_LINE} bytes, got {len(line)}")
    return line


def cut_half_line(file: BinaryIO) -> None:
    """Remove what a killed writer left after the last newline."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
