"""Where a study lives: a file on one machine, or a database that many machines share."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from alphareq_lightning.errors import OptionError, SweepError
from alphareq_lightning.selection.records import cut_half_line

JOURNAL_SUFFIXES = (".journal", ".log")
DRIVERS = {
    "postgresql": ("psycopg", "psycopg2"),
    "mysql": ("pymysql", "MySQLdb", "mysql.connector"),
}
"""Python packages that SQLAlchemy can reach a database server with, the first one preferred."""
DIALECTS = {"MySQLdb": "mysqldb", "mysql.connector": "mysqlconnector"}
CONNECT_SECONDS = 10
SQLITE_SECONDS = 60
"""SQLite has one writer at a time; the others wait so long."""
GRACE = 3
"""So many heartbeats may be missing before a worker counts as dead."""
OPENING_TRIES = 5
"""Workers that create the tables of an empty database at the same moment trip over each other."""


class Opened(NamedTuple):
    """A storage, and the file it is, if it is one."""

    storage: BaseStorage
    file: Path | None


def open_storage(where: str, *, heartbeat: int = 60, to_read: bool = False) -> Opened:
    """Open a storage, and create it if there is none.

    Args:
        where: A database URL, or the path of a journal that ends in ``.journal`` or ``.log``.
            A plain ``postgresql://`` or ``mysql://`` takes the driver that is installed.
        heartbeat: Seconds between two signs of life of a worker, in a database server.
        to_read: Refuse a storage that is not there instead of creating it, and change nothing.

    Raises:
        OptionError: If ``where`` is neither, or its driver is not installed.
        SweepError: If it cannot be reached, is damaged, or is not there ``to_read``.
    """
    if "://" not in where:
        if not where.endswith(JOURNAL_SUFFIXES):
            raise OptionError(
                "expected a database URL, or a journal that ends in .journal or .log, "
                f"got storage {where!r}"
            )
        if to_read and not Path(where).exists():
            raise nothing_begun(where)
        return Opened(_open_journal(Path(where), to_read), Path(where))
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise OptionError(f"the storage {where!r} is not a database URL") from error
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise OptionError("a sweep needs a storage that outlives it, got SQLite in memory")
        return Opened(_open_sqlite(url, to_read), Path(url.database))
    return Opened(_open_server(url, heartbeat, to_read), None)


def nothing_begun(where: str) -> SweepError:
    """The error of a storage that was to be read and is empty, or not there."""
    return SweepError(f"there is no study in {shown(where)}: no sweep was begun there")


def _open_sqlite(url: URL, to_read: bool) -> RDBStorage:
    assert url.database is not None
    if to_read and not Path(url.database).exists():
        raise nothing_begun(str(url))
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    return _open_database(url, {"connect_args": {"timeout": SQLITE_SECONDS}}, to_read)


def _open_server(url: URL, heartbeat: int, to_read: bool) -> RDBStorage:
    url = _with_driver(url)
    options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}, "pool_pre_ping": True}
    return _open_database(url, options, to_read, heartbeat_interval=heartbeat)


def _open_database(
    url: URL, options: dict[str, Any], to_read: bool, heartbeat_interval: int | None = None
) -> RDBStorage:
    shown = url.render_as_string(hide_password=True)
    for attempt in range(1, OPENING_TRIES + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                if to_read and not _has_studies(url, options):  # Optuna would make its tables
                    raise nothing_begun(url.render_as_string(hide_password=False))
                return RDBStorage(
                    url.render_as_string(hide_password=False),
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat_interval,
                    grace_period=heartbeat_interval and GRACE * heartbeat_interval,
                )
        except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
            raise OptionError(f"no driver for the database {shown} is installed") from error
        except (SQLAlchemyError, StorageInternalError) as error:
            if attempt == OPENING_TRIES or _is_unreachable(error):
                reason = first_line(error)
                raise SweepError(f"cannot open the database {shown}: {reason}") from error
            time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


def _has_studies(url: URL, options: dict[str, Any]) -> bool:
    engine = sqlalchemy.create_engine(url, **options)
    try:
        return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _is_unreachable(error: Exception) -> bool:
    """As opposed to a database that somebody else is just setting up."""
    set_up_by_others = any(sign in str(error) for sign in ("lock", "already exists"))
    return isinstance(error, sqlalchemy.exc.OperationalError) and not set_up_by_others


def _with_driver(url: URL) -> URL:
    """The URL with a driver that is there, if it names none."""
    dialect, _, driver = url.drivername.partition("+")
    dialect = {"postgres": "postgresql"}.get(dialect, dialect)
    if driver or dialect not in DRIVERS:
        return url
    for package in DRIVERS[dialect]:
        if find_spec(package.partition(".")[0]) is not None:
            return url.set(drivername=f"{dialect}+{DIALECTS.get(package, package)}")
    raise OptionError(f"no driver for {dialect}:// is installed: pip install {_PIP_NAMES[dialect]}")


_PIP_NAMES = {"postgresql": "'psycopg[binary]'", "mysql": "pymysql"}


def _open_journal(path: Path, to_read: bool) -> JournalStorage:
    try:
        lock = JournalFileOpenLock(str(path))
        if not to_read:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _cut_unfinished(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise SweepError(f"cannot open the journal {path}: {error.strerror}") from error
    except Exception as error:  # whatever the replay of foreign lines runs into
        raise SweepError(
            f"{path} is not a journal of Optuna, or is damaged{_first_bad_line(path)}; "
            "move it away, or name another storage"
        ) from error


def _cut_unfinished(path: Path, lock: JournalFileOpenLock) -> None:
    """Remove the half line that a killed writer left, before somebody writes behind it."""
    lock.acquire()
    try:
        with open(path, "r+b") as file:
            first = file.readline()
            if first and not _is_operation(first):
                raise ValueError("somebody else's file is not for us to cut")
            cut_half_line(file)
    finally:
        lock.release()


def _is_operation(line: bytes) -> bool:
    try:
        operation = json.loads(line)
    except ValueError:
        return False
    return isinstance(operation, dict) and "op_code" in operation


def _first_bad_line(path: Path) -> str:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_operation(line):
                return f" in line {number}"
    return ""


def shown(where: str) -> str:
    """A storage as messages name it: without its password."""
    return make_url(where).render_as_string(hide_password=True) if "://" in where else where


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the name of the driver's class before it."""
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return lines[0].strip() if lines else type(original).__name__


class Worker:
    """This process among the workers of a study in a file: alive as long as it holds its lock.

    The operating system releases the lock of a killed process, whatever becomes of its id.

    Args:
        file: The storage; `None` for a database server, whose workers give signs of life by
            heartbeats.
    """

    def __init__(self, file: Path | None) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._folder = None if file is None else file.with_name(f"{file.name}.workers")
        self._lock: FileLock | None = None

    def __enter__(self) -> Worker:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / self.name)
            self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None and self._folder is not None:
            self._lock.release()
            (self._folder / self.name).unlink(missing_ok=True)

    def is_dead(self, name: str) -> bool:
        """Whether another worker is known to have ended."""
        if self._folder is None or name == self.name:
            return False
        path = self._folder / name
        if not path.exists():
            return True
        try:
            with FileLock(path).acquire(blocking=False):
                return True
        except Timeout:
            return False
