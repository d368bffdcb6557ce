"""Where a study lives: a file on one machine, or a database that many machines share."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from alphareq_lightning.errors import AlphaReQError, OptionError, SweepError
from alphareq_lightning.files import opened
from alphareq_lightning.records.json_lines import LONGEST_LINE, cut_half_line
from alphareq_lightning.text import first_line

JOURNAL_SUFFIXES = (".journal", ".log")
DRIVERS = {
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mysql": {"pymysql": "pymysql", "MySQLdb": "mysqldb", "mysql.connector": "mysqlconnector"},
}
"""Python packages that SQLAlchemy can reach a database server with, the first one preferred, and
what SQLAlchemy calls them."""
TO_INSTALL = {"postgresql": "'psycopg[binary]'", "mysql": "pymysql"}
CONNECT_SECONDS = 10
SQLITE_SECONDS = 60
"""SQLite has one writer at a time; the others wait so long."""
GRACE = 3
"""So many heartbeats may be missing before a worker counts as dead."""
TURN_SECONDS = 600
"""A turn takes milliseconds, and seconds where a long plan is queued; a process that was stopped
in the middle of its turn stops the others, which give up after so long."""
_LOCK_OF_MYSQL = (f"SELECT GET_LOCK(CONCAT('alphareq.', MD5(DATABASE())), {TURN_SECONDS})",)
LOCKS = {
    # Of this transaction, so that it ends with its connection. A machine that is gone is noticed
    # within a minute, and not in the two hours of most systems.
    "postgresql": (
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'",
        "SET tcp_keepalives_idle = 30",
        "SET tcp_keepalives_interval = 10",
        "SET tcp_keepalives_count = 3",
        "SELECT pg_advisory_xact_lock(6515)",
    ),
    "mysql": _LOCK_OF_MYSQL,
    "mariadb": _LOCK_OF_MYSQL,
}
"""How a database server is asked for a turn."""


def open_storage(where: str, *, heartbeat: int = 60, to_read: bool = False) -> BaseStorage:
    """Open a storage, and create it if there is none; workers do it in a turn.

    Args:
        where: A database URL, or the path of a journal that ends in ``.journal`` or ``.log``.
            A plain ``postgresql://`` or ``mysql://`` takes the driver that is installed.
        heartbeat: Seconds between two signs of life of a worker, in a database server.
        to_read: Refuse a storage that is not there instead of creating it, and change nothing.

    Raises:
        OptionError: If ``where`` is neither, or its driver is not installed.
        SweepError: If it cannot be reached, is damaged, or is not there ``to_read``.
    """
    place, file = _place(where), file_of(where)
    if file is not None and to_read and not file.exists():
        raise nothing_begun(where)
    if isinstance(place, Path):
        return _open_journal(place, to_read)
    if file is None:
        options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}, "pool_pre_ping": True}
        return _open_database(place, options, to_read, heartbeat)
    return _open_database(place, {"connect_args": {"timeout": SQLITE_SECONDS}}, to_read)


def turn(where: str, *, to_read: bool = False) -> ExitStack:
    """Wait for the turn in a storage: one worker at a time opens it, queues slots, claims a trial.

    Optuna alone lets two workers claim one trial of an SQLite file. The system gives the turn of a
    killed process to the next one.

    Args:
        where: As in `open_storage`.
        to_read: Wait for a worker who has the turn, but make no file to have one.

    Returns:
        A context; the turn ends with it, or when it is closed.

    Raises:
        OptionError: If ``where`` is no storage.
        SweepError: If the storage cannot be reached, or somebody has the turn for too long.
    """
    place, file = _place(where), file_of(where)
    with ExitStack() as held:
        if file is None:
            assert isinstance(place, URL)
            with _told_of(place):
                engine = sqlalchemy.create_engine(
                    place,
                    poolclass=sqlalchemy.NullPool,
                    connect_args={"connect_timeout": CONNECT_SECONDS},
                )
                connection = held.enter_context(engine.connect())
                for statement in LOCKS[place.get_backend_name()]:
                    answer = connection.execute(sqlalchemy.text(statement))
                if answer.scalar() == 0:  # of MySQL
                    raise SweepError(f"another worker holds {shown(where)} for too long")
            return held.pop_all()
        lock = _beside(file) / "turn"
        try:
            if not to_read:
                lock.parent.mkdir(parents=True, exist_ok=True)
            if lock.exists() or not to_read:
                held.enter_context(FileLock(lock, timeout=TURN_SECONDS, poll_interval=0.01))
        except Timeout as error:
            raise SweepError(f"another worker holds {shown(where)} for too long") from error
        except OSError as error:
            if not to_read:  # somebody else's files may be ours to read only
                raise SweepError(f"cannot lock {shown(where)}: {first_line(error)}") from error
        return held.pop_all()


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Tell in a line what is wrong with a storage, whatever its contents run into.

    Raises:
        SweepError: If something is.
    """
    try:
        yield
    except AlphaReQError:
        raise
    except Exception as error:
        raise SweepError(
            f"cannot work with what is in {shown(where)}: {type(error).__name__}: {reason(error)}"
        ) from error


def nothing_begun(where: str) -> SweepError:
    """The error of a storage that was to be read and is empty, or not there."""
    return SweepError(f"there is no study in {shown(where)}: no sweep was begun there")


def _place(where: str) -> URL | Path:
    """The URL of a database, or the path of a journal."""
    if "://" not in where:
        if not where.endswith(JOURNAL_SUFFIXES):
            raise OptionError(
                "expected a database URL, or a journal that ends in .journal or .log, "
                f"got storage {where!r}"
            )
        return Path(where)
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise OptionError(f"the storage {where!r} is not a database URL") from error
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise OptionError("a sweep needs a storage that outlives it, got SQLite in memory")
        return url
    url = _with_driver(url)
    if url.get_backend_name() not in LOCKS:
        raise OptionError(
            f"expected SQLite, PostgreSQL or MySQL, got the database {url.get_backend_name()}"
        )
    return url


def file_of(where: str) -> Path | None:
    """The file of a storage, where links lead to; `None` for a database server."""
    place = _place(where)
    if isinstance(place, URL) and place.get_backend_name() != "sqlite":
        return None
    return Path(os.path.realpath(place if isinstance(place, Path) else str(place.database)))


def _beside(file: Path) -> Path:
    """Where the locks of a storage in a file lie."""
    return file.with_name(f"{file.name}.workers")


def _open_database(
    url: URL, options: dict[str, Any], to_read: bool, heartbeat: int | None = None
) -> RDBStorage:
    with _told_of(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if heartbeat is None:
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        if to_read and not _has_studies(url, options):  # Optuna would make its tables
            raise nothing_begun(url.render_as_string(hide_password=False))
        return RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=heartbeat,
            grace_period=heartbeat and GRACE * heartbeat,
        )


@contextmanager
def _told_of(url: URL) -> Iterator[None]:
    name = url.render_as_string(hide_password=True)
    try:
        yield
    except AlphaReQError:
        raise
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise OptionError(f"no driver for the database {name} is installed") from error
    except Exception as error:  # drivers, SQLAlchemy and Optuna have many types
        raise SweepError(f"cannot open the database {name}: {reason(error)}") from error


def _has_studies(url: URL, options: dict[str, Any]) -> bool:
    engine = sqlalchemy.create_engine(url, **options)
    try:
        return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _with_driver(url: URL) -> URL:
    """The URL with a driver that is there, if it names none."""
    dialect, _, driver = url.drivername.partition("+")
    dialect = {"postgres": "postgresql"}.get(dialect, dialect)
    if driver or dialect not in DRIVERS:
        return url
    for package, driver in DRIVERS[dialect].items():
        if find_spec(package.partition(".")[0]) is not None:
            return url.set(drivername=f"{dialect}+{driver}")
    raise OptionError(f"no driver for {dialect}:// is installed: pip install {TO_INSTALL[dialect]}")


class _JournalLock(JournalFileOpenLock):
    """The system releases it with a killed process; for Optuna's the others wait 30 seconds.

    Whoever writes first removes what a killed writer has left of a line.
    """

    def __init__(self, path: Path) -> None:
        self._journal = path
        self._lock = FileLock(_beside(Path(os.path.realpath(path))) / "journal")

    def acquire(self) -> bool:
        self._lock.acquire(poll_interval=0.01)
        with open(self._journal, "r+b") as file:
            cut_half_line(file)
        return True

    def release(self) -> None:
        self._lock.release()


def _open_journal(path: Path, to_read: bool) -> JournalStorage:
    try:
        if not to_read:
            _beside(Path(os.path.realpath(path))).mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_is_ours(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
    except OSError as error:
        raise SweepError(f"cannot open the journal {path}: {first_line(error)}") from error
    except Exception as error:  # whatever the replay of foreign lines runs into
        raise SweepError(
            f"{path} is not a journal of Optuna, or is damaged{_first_bad_line(path)}; "
            "move it away, or name another storage"
        ) from error


def _check_is_ours(path: Path) -> None:
    """Somebody else's file is not for us to cut."""
    with opened(path) as file:
        first = file.readline(LONGEST_LINE)
        if first and not _is_operation(first):
            raise ValueError("not a journal")


def _is_operation(line: bytes) -> bool:
    try:
        operation = json.loads(line)
    except (ValueError, RecursionError):
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


def reason(error: BaseException) -> str:
    """The first line of an error's message, without the name of the driver's class before it."""
    return first_line(getattr(error, "orig", None) or error)


class Worker:
    """This process among the workers of a study in a file: alive as long as it holds its lock.

    The operating system releases the lock of a killed process, whatever becomes of its id. One
    that ends by itself takes its lock's file along.

    Args:
        file: The storage; `None` for a database server, whose workers give signs of life by
            heartbeats.
    """

    def __init__(self, file: Path | None) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._folder = None if file is None else _beside(file)
        self._lock: FileLock | None = None
        self.beats = file is None
        """Whether the storage must be given signs of life."""

    def __enter__(self) -> Worker:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / self.name)
            self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and self._folder is not None:
            self._lock.release()
            (self._folder / self.name).unlink(missing_ok=True)

    def is_dead(self, name: str) -> bool:
        """Whether another worker is known to have ended."""
        if self._folder is None or name == self.name:
            return False
        if self.has_left(name):
            return True
        try:
            with FileLock(self._folder / name).acquire(blocking=False):
                return True
        except Timeout:
            return False

    def has_left(self, name: str) -> bool:
        """Whether another worker has ended by itself, as opposed to one that was killed."""
        return self._folder is not None and not (self._folder / name).exists()
