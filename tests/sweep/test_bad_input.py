"""One line and exit code 2, before anything is trained."""

import re
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest
import yaml

from alphareq_lightning.commands.main import main
from alphareq_lightning.errors import SweepError

from sweeps import write_sweep

optuna = pytest.importorskip("optuna")

from alphareq_lightning.sweep import read_sweep  # noqa: E402
from alphareq_lightning.sweep import storage as storage_room  # noqa: E402
from alphareq_lightning.sweep.storage import open_storage, turn  # noqa: E402
from alphareq_lightning.sweep.study import load_study, open_study  # noqa: E402


def refusal(capsys, config, *more):
    assert main(["sweep", "--config", str(config), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("alphareq: ")
    assert error.count("\n") == 1
    assert not (config.parent / "marks").exists()
    return error


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.widht": [40]}, "space: model.widht: Option 'widht' is not accepted; did you mean"),
        (
            {"seed_everything": [1, "x"]},
            "space: seed_everything: Expected a <class 'bool'>; Expected a <class 'int'>; Given",
        ),
        ({"modle.width": [40]}, "unrecognized arguments: --modle.width=40; did you mean 'model.w"),
        ({"modle.width": {"low": 1, "high": 2}}, "unrecognized arguments: --modle.width"),
    ],
)
def test_unknown_config_keys(tmp_path, capsys, space, message):
    config = write_sweep(tmp_path, space=space, sampler="random", trials=2)
    assert message in refusal(capsys, config)


def test_overrides_that_the_config_refuses(tmp_path, capsys):
    error = refusal(capsys, write_sweep(tmp_path, overrides={"trainer.max_epoch": 3}))
    assert "train.yaml with its overrides: unrecognized arguments: --trainer.max_epoch=3" in error


def test_a_class_that_cannot_be_imported(tmp_path, capsys):
    error = refusal(capsys, write_sweep(tmp_path, overrides={"model": "no_such_module.Model"}))
    assert "train.yaml with its overrides: No module named 'no_such_module'" in error


def test_an_empty_space_and_an_unknown_key_of_the_file(tmp_path, capsys):
    assert "'space' is missing or empty" in refusal(capsys, write_sweep(tmp_path, space={}))
    error = refusal(capsys, write_sweep(tmp_path, sampelr="grid"))
    assert "unknown key 'sampelr'; did you mean 'sampler'?" in error


def test_missing_labels(tmp_path, capsys):
    error = refusal(capsys, write_sweep(tmp_path, data={"labelled": False}))
    assert "the images have no labels; a readout needs them" in error


def change_training(tmp_path, **trainer):
    config = write_sweep(tmp_path)
    path = tmp_path / "train.yaml"
    train = yaml.safe_load(path.read_text())
    train["trainer"].update(trainer)
    path.write_text(yaml.safe_dump(train))
    return config, path, train


def test_trainings_that_cannot_be_trials(tmp_path, capsys):
    config, path, train = change_training(tmp_path, callbacks=None)
    assert "no alphareq_lightning.AlphaMonitor among its callbacks" in refusal(capsys, config)
    config, path, train = change_training(tmp_path, devices=2)
    assert "a trial trains in one process, got 2; set trainer.devices: 1" in refusal(
        capsys, config, "--storage", f"sqlite:///{tmp_path}/2.db"
    )
    config, path, train = change_training(tmp_path)
    train["data"] = {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"}
    path.write_text(yaml.safe_dump(train))
    error = refusal(capsys, config, "--storage", f"sqlite:///{tmp_path}/3.db")
    assert "BoringDataModule has no readout_datasets() that gives two labelled datasets" in error


def test_an_unreachable_database(tmp_path, capsys):
    pytest.importorskip("psycopg")
    url = "postgresql://me:secret@127.0.0.1:9/none"
    error = refusal(capsys, write_sweep(tmp_path), "--storage", url)
    assert "cannot open the database postgresql+psycopg://me:***@127.0.0.1:9/none: " in error
    assert "refused" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("study.csv", "expected a database URL, or a journal that ends in .journal or .log, got"),
        ("sqlite://", "a sweep needs a storage that outlives it, got SQLite in memory"),
        ("oracle+none://host/x", "expected SQLite, PostgreSQL or MySQL, got the database oracle"),
        ("://", "is not a database URL"),
    ],
)
def test_storages_that_are_none(tmp_path, capsys, where, message):
    assert message in refusal(capsys, write_sweep(tmp_path), "--storage", where)


def test_files_that_hold_something_else(tmp_path, capsys):
    config = write_sweep(tmp_path)
    database = tmp_path / "study.db"
    database.write_text("not a database" * 100)
    error = refusal(capsys, config, "--storage", f"sqlite:///{database}")
    assert "study.db: file is not a database" in error
    journal = tmp_path / "study.journal"
    journal.write_text("first\nsecond\n")
    error = refusal(capsys, config, "--storage", str(journal))
    assert "study.journal is not a journal of Optuna, or is damaged in line 1; move it" in error
    assert journal.read_text() == "first\nsecond\n"


def test_a_journal_damaged_in_the_middle_and_one_cut_at_the_end(tmp_path, capsys):
    journal = tmp_path / "study.journal"
    study = optuna.create_study(study_name="other", storage=open_storage(str(journal)))
    study.enqueue_trial({"x": 1})
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker_')
    reopened = optuna.load_study(study_name="other", storage=open_storage(str(journal)))
    reopened.enqueue_trial({"x": 2})
    assert journal.read_bytes().startswith(whole)
    again = optuna.load_study(study_name="other", storage=open_storage(str(journal)))
    assert [t.system_attrs["fixed_params"] for t in again.trials] == [{"x": 1}, {"x": 2}]
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:10] + b"\n"
    journal.write_bytes(b"".join(lines))
    error = refusal(capsys, write_sweep(tmp_path), "--storage", str(journal))
    assert "is damaged in line 2; move it away, or name another storage" in error


def test_a_study_of_the_same_name_with_something_else(tmp_path, capsys):
    where = ("--storage", f"sqlite:///{tmp_path}/study.db")
    url = where[1]
    optuna.create_study(study_name="tiny_sweep", storage=url).enqueue_trial({"x": 1})
    error = refusal(capsys, write_sweep(tmp_path), *where)
    assert "the study 'tiny_sweep' in this storage is none of alphareq sweep" in error
    optuna.delete_study(study_name="tiny_sweep", storage=url)
    begun = open_study(read_sweep(write_sweep(tmp_path)), open_storage(url))
    begun.enqueue_trial({"model.width": 40})
    error = refusal(capsys, write_sweep(tmp_path, seed=1), *where)
    assert "was begun with another seed (0, now 1); choose another name: or storage:" in error
    error = refusal(capsys, write_sweep(tmp_path, space={"model.width": [40, 99]}), *where)
    assert "another space: model.width ([40, 44, 48, 52], now [40, 99])" in error
    error = refusal(capsys, write_sweep(tmp_path, trainer={"max_epochs": 7}), *where)
    assert "another train: trainer: max_epochs (1, now 7)" in error


def test_the_status_of_a_sweep_that_was_never_begun(tmp_path, capsys):
    error = refusal(capsys, write_sweep(tmp_path), "--status")
    assert "there is no study in sqlite" in error
    assert error.endswith("study.db: no sweep was begun there\n")
    url = f"sqlite:///{tmp_path}/other.db"
    optuna.create_study(study_name="other", storage=url)
    error = refusal(capsys, write_sweep(tmp_path), "--status", "--storage", url)
    assert "there is no study 'tiny_sweep' in sqlite" in error
    assert error.endswith("it holds: other\n")


FOREIGN = "epoch 1: loss 3.1\nepoch 2: lo"


@pytest.mark.parametrize("name", ["train.log", "train.journal", "train.db"])
def test_reading_leaves_files_as_they_are_and_makes_none(tmp_path, capsys, name):
    def everything():
        return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    config = write_sweep(tmp_path)
    foreign, absent = tmp_path / name, tmp_path / "new" / name
    foreign.write_text(FOREIGN)
    if name.endswith(".db"):
        foreign.unlink()
        with sqlite3.connect(foreign) as database:
            database.execute("create table notes (text)")
        foreign, absent = f"sqlite:///{foreign}", f"sqlite:///{absent}"
    before = everything()
    for storage in (foreign, absent):
        for command in (
            ("rank", str(storage)),
            ("report", str(storage), "--out", str(tmp_path / "page.html")),
            ("sweep", "--config", str(config), "--status", "--storage", str(storage)),
        ):
            assert main([*command]) == 2
            error = capsys.readouterr().err
            assert error.startswith("alphareq: ")
            assert error.count("\n") == 1
    assert everything() == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_status_waits_for_the_worker_who_is_just_beginning(tmp_path, capsys, kind):
    """Tables are made one by one, and the study after them."""
    storage = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else f"{tmp_path}/s.journal"
    config = write_sweep(tmp_path, storage=storage)
    with ThreadPoolExecutor(1) as pool:
        with turn(storage):
            opened = open_storage(storage)
            asked = pool.submit(main, ["sweep", "--config", str(config), "--status"])
            with pytest.raises(TimeoutError):
                asked.result(timeout=1.0)
            open_study(read_sweep(config), opened)
        assert asked.result() == 0
    assert "0 of 0 configurations done" in capsys.readouterr().out


def test_a_worker_cuts_no_file_that_is_none_of_its_journals(tmp_path, capsys):
    config = write_sweep(tmp_path)
    for text in (FOREIGN, "one line without an end", '{"alpha": 1.0}\n{"al'):
        journal = tmp_path / "notes.log"
        journal.write_text(text)
        error = refusal(capsys, config, "--storage", str(journal))
        assert "notes.log is not a journal of Optuna, or is damaged in line 1; move it" in error
        assert journal.read_text() == text


def test_a_study_needs_no_name_where_it_is_the_only_one(tmp_path):
    url = str(tmp_path / "study.journal")
    storage = open_storage(url)
    with pytest.raises(SweepError, match=r"there is no study in .*: no sweep was begun there"):
        load_study(url)
    optuna.create_study(study_name="first", storage=storage)
    assert load_study(url).study_name == "first"
    assert load_study(url, "first").study_name == "first"
    optuna.create_study(study_name="second", storage=storage)
    with pytest.raises(SweepError, match=r"there are 2 studies in .*; name one of first, second"):
        load_study(url)
    assert load_study(url, "second").study_name == "second"


@pytest.mark.parametrize(
    ("url", "installed", "driver"),
    [
        ("postgresql://h/x", {"psycopg", "psycopg2"}, "postgresql+psycopg"),
        ("postgres://h/x", {"psycopg2"}, "postgresql+psycopg2"),
        ("postgresql+pg8000://h/x", set(), "postgresql+pg8000"),
        ("mysql://h/x", {"MySQLdb"}, "mysql+mysqldb"),
        ("mysql://h/x", {"mysql", "pymysql"}, "mysql+pymysql"),
    ],
)
def test_a_plain_url_takes_the_driver_that_is_installed(monkeypatch, url, installed, driver):
    monkeypatch.setattr(storage_room, "find_spec", lambda name: name in installed or None)
    assert storage_room._with_driver(storage_room.make_url(url)).drivername == driver


def test_a_missing_driver(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storage_room, "find_spec", lambda name: None)
    error = refusal(capsys, write_sweep(tmp_path), "--storage", "postgresql://h/x")
    assert "no driver for postgresql:// is installed: pip install 'psycopg[binary]'" in error


def test_without_optuna(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if re.match(r"alphareq_lightning\..*sweep", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    error = refusal(capsys, write_sweep(tmp_path))
    assert "a sweep needs its extra: pip install 'alphareq-lightning[sweep]'" in error


def test_a_page_of_a_database_that_is_damaged(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/study.db"
    study = open_study(read_sweep(write_sweep(tmp_path)), open_storage(url))
    study.enqueue_trial({"model.width": 40}, user_attrs={"slot": 0})
    good = (tmp_path / "study.db").read_bytes()
    refused = 0
    for page in range(1, len(good) // 4096):
        bad = good[: page * 4096] + b"\xff" * 4096 + good[(page + 1) * 4096 :]
        (tmp_path / "study.db").write_bytes(bad)
        for command in (
            ("rank", url),
            ("sweep", "--config", str(tmp_path / "tiny_sweep.yaml"), "--status", "--storage", url),
        ):
            code = main([*command])
            error = capsys.readouterr().err
            assert (code, error.count("\n")) in ((0, 0), (2, 1))
            refused += "malformed" in error
    assert refused > 2


def test_a_journal_whose_lines_make_no_sense(tmp_path, capsys):
    journal = tmp_path / "study.journal"
    config = write_sweep(tmp_path)
    study = open_study(read_sweep(config), open_storage(str(journal)))
    study.enqueue_trial({"model.width": 40}, user_attrs={"slot": 0})
    good = journal.read_bytes()
    for line, text in (
        (b'{"op_code": 99}', "is not a journal of Optuna, or is damaged"),
        (b'{"op_code":8,"worker_id":"w","trial_id":0,"user_attr":{"slot":[]}}', "cannot work with"),
    ):
        journal.write_bytes(good + line + b"\n")
        where = ("--storage", str(journal))
        assert text in refusal(capsys, config, "--status", *where)
        assert text in refusal(capsys, config, *where)


@pytest.mark.timeout(30)
def test_a_config_that_names_itself_again_and_again(tmp_path, capsys):
    config = write_sweep(tmp_path)
    names = "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
    for text, message in (
        (f"a0: &a0 [x, x]\n{names}", "it has more than 1000000 values"),
        ("train: &a [*a]\n", "it is nested too deep"),
        ("train: " + "[" * 5000, "it is nested too deep"),
    ):
        config.write_text(text)
        assert message in refusal(capsys, config)
