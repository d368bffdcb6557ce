"""Studies as sources of rank, report and select, with trials that cost nothing."""

import json

import pytest

from alphareq_lightning.commands import report as report_command
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.report.page import report_data
from alphareq_lightning.selection import AlphaIntervalSearch, select_by_readouts

from plain_records import plain_record

optuna = pytest.importorskip("optuna")

from alphareq_lightning.sweep.config import IDENTITY  # noqa: E402
from alphareq_lightning.sweep.trial import PATH, RECORD  # noqa: E402


def record(alpha, **values):
    settings = {"layer": "backbone", "fit_range": (4, 8), "num_samples": 200, "num_features": 40}
    return plain_record(alpha=alpha, **settings, **values)


def begin(storage, name, alphas, search=None):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    if search is not None:
        study.set_user_attr(IDENTITY, {"search": search})
    for alpha in alphas:
        trial = study.ask()
        trial.set_user_attr(RECORD, record(alpha).to_json())
        trial.set_user_attr(PATH, f"{name}/{alpha}.ckpt")
        study.tell(trial, 90 - (alpha - 1) ** 2)


def ranked(capsys, *arguments):
    assert main(["rank", *arguments, "--json"]) == NO_CHOICE
    return [row["alpha"] for row in json.loads(capsys.readouterr().out)["records"]]


def refusal(capsys, *arguments):
    assert main([*arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture
def reports(monkeypatch):
    """The records and options of each page, instead of the page."""
    written = []

    def write_report(path, records, *, title, command, **options):
        report_data(records, **options)  # refuses what the page would
        written.append((records, options))
        return path

    monkeypatch.setattr(report_command, "write_report", write_report)
    return written


def test_one_study_of_several_is_named(tmp_path, capsys, reports):
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.storages.RDBStorage(url)
    assert f"alphareq: there is no study in {url}: no sweep" in refusal(capsys, "rank", url)
    begin(url, "first", [1.0, 1.5])
    assert ranked(capsys, url) == [1.0, 1.5]
    begin(url, "second", [1.2])
    several = f"alphareq: there are 2 studies in {url}; name one of first, second (--study)\n"
    page = tmp_path / "page.html"
    for command in (
        ("rank", url),
        ("report", url, "--out", str(page)),
        ("select", url, "--out", str(tmp_path / "select")),
    ):
        assert refusal(capsys, *command) == several
    assert ranked(capsys, url, "--study", "first") == [1.0, 1.5]
    assert ranked(capsys, url, "--study", "second") == [1.2]
    assert main(["report", url, "--study", "second", "--out", str(page)]) == 0
    assert [record.alpha for record in reports.pop()[0]] == [1.2]
    error = refusal(capsys, "select", url, "--study", "second", "--out", str(tmp_path / "select"))
    assert "1 of 1 checkpoints are not where their records say" in error
    error = refusal(capsys, "rank", url, "--study", "third")
    assert f"there is no study 'third' in {url}; it holds: first, second" in error


def test_a_study_is_named_where_there_is_none(tmp_path, capsys):
    error = refusal(capsys, "rank", str(tmp_path), "--study", "first")
    assert error == "alphareq: --study first: none of the sources is the storage of a sweep\n"


def test_the_search_that_was_run_is_replayed(tmp_path, capsys, reports):
    def replayed(*arguments):
        assert main(["report", *map(str, arguments), "--out", str(tmp_path / "page.html")]) == 0
        options = reports.pop()[1]
        return options.get("top_k"), options.get("margin"), capsys.readouterr().err

    alphas = [0.5, 1.0, 1.5, 2.0]
    url = f"sqlite:///{tmp_path}/study.db"
    begin(url, "first", alphas, {"top_k": 2, "margin": 1})
    assert replayed(url) == (2, 1, "")
    assert replayed(url, "--top-k", 1) == (1, 1, "")
    assert replayed(url, "--margin", 0) == (2, 0, "")
    records = [record(a, path=f"{a}.ckpt") for a in alphas]
    folder = tmp_path / "select"
    select_by_readouts(records, lambda r: 90 - r.alpha, folder, top_k=3, margin=0)
    assert replayed(folder) == (3, 0, "")
    assert replayed(folder / "records.jsonl") == (3, 0, "")
    (folder / "search.json").unlink()
    assert replayed(folder) == (None, None, "")  # what write_report takes by default
    AlphaIntervalSearch(top_k=4).save(folder / "search.json")
    said = (
        "alphareq: the sources come from searches of different settings; give --top-k, --margin\n"
    )
    assert replayed(folder, url) == (None, None, said)
    (folder / "search.json").write_text("[]")
    error = refusal(capsys, "report", str(folder), "--out", str(tmp_path / "page.html"))
    assert "search.json is not a saved interval search" in error
