"""Whole sweeps of tiny trainings in this process, by the command."""

import errno
import json
import os
import re
import signal

import pytest
import torch
import yaml
from rich.console import Console

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.selection import closing_interval, rank_checkpoints

from sweeps import FAIL, INTERRUPT, WIDTHS, marked, write_sweep
from tiny import TinyModule, images

optuna = pytest.importorskip("optuna")

from optuna.exceptions import StorageInternalError  # noqa: E402

from alphareq_lightning import records_from_checkpoints  # noqa: E402
from alphareq_lightning.sweep import (  # noqa: E402
    load_study,
    read_sweep,
    study_configurations,
    study_records,
)
from alphareq_lightning.sweep import study as study_room  # noqa: E402
from alphareq_lightning.sweep.pruner import readouts  # noqa: E402
from alphareq_lightning.sweep.slots import MAX_DEATHS  # noqa: E402
from alphareq_lightning.sweep.trial import monitored_features  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def sweep(capsys, config, *more):
    assert main(["sweep", "--config", str(config), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def open_study(config):
    given = read_sweep(config)
    return load_study(given.storage, given.name)


def outcomes(summary):
    return {t["params"]["model.width"]: (t["alpha"], t["accuracy"]) for t in summary["trials"]}


def test_a_sweep_pays_few_readouts_and_ends_with_the_best_model(tmp_path, capsys):
    config = write_sweep(tmp_path)
    summary = sweep(capsys, config)
    assert (summary["num_slots"], summary["num_done"]) == (4, 4)
    assert summary["paid"] + summary["saved"] == 4
    assert summary["paid"] >= 2
    accuracies = [t["accuracy"] for t in summary["trials"] if t["accuracy"] is not None]
    assert summary["best"]["accuracy"] == max(accuracies) > 30  # four classes
    assert set(summary["seconds"]) == {"train", "alpha", "readout"}

    study = open_study(config)
    assert list(closing_interval(readouts(study.trials), top_k=1)) == [
        bound if bound is not None else sign * float("inf")
        for bound, sign in zip(summary["interval"], (-1, 1), strict=True)
    ]
    records = study_records(study)
    assert [r.accuracy for r in records] == [t["accuracy"] for t in summary["trials"]]
    assert [r.metrics["model.width"] for r in records] == [
        t["params"]["model.width"] for t in summary["trials"]
    ]
    assert [r.params for r in records] == [t["params"] for t in summary["trials"]]
    assert len(rank_checkpoints(records)) == 4
    for record in records:  # the checkpoint is the model that was measured
        [kept] = records_from_checkpoints([record.path])
        assert (kept.alpha, kept.num_features) == (record.alpha, record.metrics["model.width"])

    assert sweep(capsys, config) == summary  # nothing is left to do
    assert marked(tmp_path / "marks", "begun") == WIDTHS
    assert main(["sweep", "--config", str(config), "--status"]) == 0
    shown = capsys.readouterr().out
    assert f"4 of 4 configurations done: {summary['paid']} readouts paid" in shown
    assert f"{summary['best']['accuracy']:.2f} %" in shown


def test_a_sweep_over_seeds_knows_its_configurations(tmp_path, capsys):
    config = write_sweep(tmp_path, space={"model.width": [40, 44], "seed_everything": [0, 1]})
    sweep(capsys, config)
    told = study_configurations(open_study(config))
    assert sorted(told.values()) == ['{"model.width": 40}'] * 2 + ['{"model.width": 44}'] * 2
    records = study_records(open_study(config))
    assert all(told[r.run] == f'{{"model.width": {r.num_features}}}' for r in records)
    assert main(["rank", read_sweep(config).storage, "--json"]) == NO_CHOICE


def test_a_sweep_without_readouts_leaves_them_to_a_budget(tmp_path, capsys):
    config = write_sweep(tmp_path, space={"seed_everything": [0, 1, 2, 3]}, search={"top_k": 0})
    summary = sweep(capsys, config)
    assert (summary["paid"], summary["saved"], summary["failed"]) == (0, 4, [])
    given = read_sweep(config)
    select = ["select", given.storage, "--config", str(given.train), "--budget", "2"]
    assert main([*select, "--probe", "knn", "--out", str(tmp_path / "selected"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["readouts_paid"], found["readouts_saved"]) == (2, 2)
    assert main(["report", given.storage, "--out", str(tmp_path / "report.html")]) == 0


def test_studies_with_one_folder_keep_their_own_models(tmp_path, capsys):
    kept = []
    for width in (40, 44):
        url = f"sqlite:///{tmp_path}/{width}.db"
        config = write_sweep(tmp_path, space={"model.width": [width]})
        sweep(capsys, config, "--storage", url)
        kept += study_records(load_study(url))
    for record, width in zip(kept, (40, 44), strict=True):
        [on_disk] = records_from_checkpoints([record.path])
        assert (on_disk.alpha, on_disk.num_features) == (record.alpha, width)
    assert len(records_from_checkpoints([tmp_path / "out"])) == 2


@pytest.mark.parametrize("asked", [False, True])
def test_a_folder_lists_each_model_once_unless_the_config_keeps_more(tmp_path, capsys, asked):
    config = write_sweep(tmp_path, trials=2, trainer={"enable_checkpointing": None})
    train = yaml.safe_load((tmp_path / "train.yaml").read_text())
    if asked:
        keep = {"class_path": "ModelCheckpoint", "init_args": {"filename": "asked"}}
        train["trainer"]["callbacks"].append(keep)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    summary = sweep(capsys, config)
    files = sorted(path.name for path in (tmp_path / "out").rglob("*.ckpt"))
    assert files == ["asked.ckpt"] * 2 * asked + ["trained.ckpt"] * 2
    assert main(["rank", str(tmp_path / "out"), "--json"]) == NO_CHOICE
    assert len(json.loads(capsys.readouterr().out)["records"]) == len(files)
    assert summary["failed"] == []


def test_an_interrupted_sweep_goes_on_to_the_same_end(tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = outcomes(sweep(capsys, write_sweep(whole)))
    config = write_sweep(broken)
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv(INTERRUPT, "48")
    assert main(["sweep", "--config", str(config)]) == 130
    assert signal.getsignal(signal.SIGINT) is handler
    said = capsys.readouterr().err
    assert said == "alphareq: interrupted; the same command goes on from here\n"
    ended = marked(broken / "marks", "ended")
    assert 48 not in ended
    monkeypatch.delenv(INTERRUPT)
    summary = sweep(capsys, config)
    resumed = outcomes(summary)
    assert {w: alpha for w, (alpha, _) in resumed.items()} == {
        w: alpha for w, (alpha, _) in expected.items()
    }
    for width in WIDTHS:  # the order is another, and with it which readouts are paid
        both = {resumed[width][1], expected[width][1]} - {None}
        assert len(both) <= 1
    assert marked(broken / "marks", "ended") == WIDTHS
    assert marked(broken / "marks", "begun") == sorted([*WIDTHS, 48])
    assert summary["died"] == 1


def test_a_trial_that_fails_keeps_its_reason_and_is_not_tried_again(tmp_path, capsys, monkeypatch):
    config = write_sweep(tmp_path)
    monkeypatch.setenv(FAIL, "44")
    summary = sweep(capsys, config)
    [reason] = summary["failed"]
    assert reason.endswith("RuntimeError: a mishap at width 44")
    assert summary["num_done"] == 4
    monkeypatch.delenv(FAIL)
    assert sweep(capsys, config)["failed"] == [reason]
    assert marked(tmp_path / "marks", "begun") == WIDTHS


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def chained(*args, **options):
    try:
        no_space()
    except OSError as error:
        raise ValueError("cannot save") from error


def of_torch(*args, **options):
    raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")


@pytest.mark.parametrize("fail", [no_space, chained, of_torch])
def test_a_full_disk_stops_the_worker_and_spoils_no_trial(tmp_path, capsys, monkeypatch, fail):
    config = write_sweep(tmp_path, trials=2)
    for run in range(2 * (MAX_DEATHS + 1)):  # a machine is no reason to give a configuration up
        with monkeypatch.context() as patch:
            patch.setattr("lightning.pytorch.Trainer.save_checkpoint", fail)
            assert main(["sweep", "--config", str(config)]) == 2
        error = capsys.readouterr().err
        assert re.match(
            r"alphareq: trial \d+ stopped by a fault of this machine: .*No space", error
        )
        assert error.endswith("started again, the sweep runs it again\n")
        assert error.count("\n") == 1
        states = [t.state.name for t in open_study(config).trials]
        assert (states.count("FAIL"), states.count("WAITING")) == (run + 1, 1)  # the other waits
    summary = sweep(capsys, config)
    assert (summary["num_done"], summary["failed"]) == (2, [])
    assert len(summary["trials"]) == 2


def test_a_configuration_that_takes_all_memory_is_given_up_in_the_end(
    tmp_path, capsys, monkeypatch
):
    def no_memory(*args, **options):
        raise MemoryError

    config = write_sweep(tmp_path, trials=1)
    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", no_memory)
    for _ in range(MAX_DEATHS):
        assert main(["sweep", "--config", str(config)]) == 2
        assert "a fault of this machine: MemoryError: no memory" in capsys.readouterr().err
    assert sweep(capsys, config)["failed"] == ["slot 0: its workers died again and again"]


def fill_up_after_the_claim(patch):
    """From the end of the claim on, nothing can be written to the storage."""
    full = StorageInternalError("database or disk is full")

    def run_trial(sweep, trial):
        def lost(*args, **options):
            raise full

        for name in ("set_trial_user_attr", "set_trial_state_values"):
            patch.setattr(optuna.storages.RDBStorage, name, lost)
        no_space()

    patch.setattr(study_room, "run_trial", run_trial)


def test_a_storage_on_a_full_disk_leaves_the_trial_to_the_next_worker(
    tmp_path, capsys, monkeypatch
):
    """Not even that it was interrupted can be written then."""
    config = write_sweep(tmp_path, trials=2)
    for _ in range(MAX_DEATHS + 1):
        with monkeypatch.context() as patch:
            fill_up_after_the_claim(patch)
            assert main(["sweep", "--config", str(config)]) == 2
        error = capsys.readouterr().err
        assert "lost the storage of the sweep: database or disk is full" in error
    summary = sweep(capsys, config)
    assert (summary["num_done"], summary["failed"]) == (2, [])


def test_brackets_in_errors_and_parameters_are_text(tmp_path, capsys, monkeypatch):
    def fails(*args, **options):
        raise OSError("cannot open [/data/x] in [bold]")

    space = {"model.width": [40], "trainer.check_val_every_n_epoch": [1]}
    name = "tiny [/b] [red]"
    config = write_sweep(tmp_path, name=name, space=space, trials=1)
    monkeypatch.setattr("alphareq_lightning.sweep.trial.read_out", fails)
    for more in ((), ("--status",)):
        assert main(["sweep", "--config", str(config), *more]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert output.count("failed: trial 0: OSError: cannot open [/data/x] in [bold]") == 1
        assert "tiny [/b] [red]: the best of 0 readouts" in output


def test_a_summary_can_be_printed_by_any_console(tmp_path, capsys):
    config = write_sweep(tmp_path, name="tiny [/b]", trials=1)
    console = Console(width=200)
    console.print(study_room.run_sweep(read_sweep(config), console=console).table())
    assert "tiny [/b]: the best of 1 readouts" in capsys.readouterr().out


def test_a_failed_readout_counts_as_paid(tmp_path, capsys, monkeypatch):
    def fails(*args, **options):
        raise ValueError("singular")

    monkeypatch.setattr("alphareq_lightning.sweep.trial.read_out", fails)
    summary = sweep(capsys, write_sweep(tmp_path, trials=2))
    assert summary["paid"] == len(summary["failed"]) == 2
    assert summary["best"] is None
    assert summary["failed"][0].endswith("ValueError: singular")


def test_a_model_without_alpha_is_never_read_out(tmp_path, capsys):
    config = write_sweep(tmp_path, trials=2, monitor={"max_samples": 6})
    summary = sweep(capsys, config)
    assert (summary["paid"], summary["saved"]) == (0, 2)
    assert {t["outcome"] for t in summary["trials"]} == {"no α"}
    assert [r.accuracy for r in study_records(open_study(config))] == [None, None]


def test_alphas_of_different_windows_are_said_not_to_compare(tmp_path, capsys):
    config = write_sweep(tmp_path, trials=2, monitor={"fit_range": "auto"})
    assert sweep(capsys, config)["cautions"] == [
        "α of different fit windows do not compare: ranks 4–8, 4–9; refit on one"
    ]


def test_early_stopping_without_labels_spares_epochs(tmp_path, capsys):
    config = write_sweep(
        tmp_path,
        space={"model.width": [40, 44, 48, 52, 56, 60]},
        trainer={"max_epochs": 4},
        early_stopping={"min_epochs": 2, "reduction_factor": 2},
    )
    summary = sweep(capsys, config)
    stopped = [t for t in summary["trials"] if t["outcome"] == "stopped early"]
    assert 0 < len(stopped) == summary["stopped_early"] < 6
    assert len(marked(tmp_path / "marks", "epoch")) == 4 * (6 - len(stopped)) + 2 * len(stopped)
    study = open_study(config)
    at_rung = {t.number: -t.intermediate_values[2] for t in study.trials}
    assert min(at_rung, key=at_rung.get) not in {t["trial"] for t in stopped}
    assert len(study_records(study)) == 6 - len(stopped)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_samplers_draw_from_ranges(tmp_path, capsys, sampler):
    space = {"model.width": {"low": 40, "high": 60}, "seed_everything": [1, 2, 3]}
    config = write_sweep(tmp_path, space=space, sampler=sampler, trials=2)
    params = [t["params"] for t in sweep(capsys, config)["trials"]]
    assert len(params) == 2
    assert all(40 <= p["model.width"] <= 60 and p["seed_everything"] in (1, 2, 3) for p in params)
    longer = sweep(capsys, config, "--trials", "3")
    assert [t["params"] for t in longer["trials"]][:2] == params
    assert longer["num_done"] == 3


def test_few_labels_are_as_many_of_each_class(tmp_path, capsys, monkeypatch):
    seen = []

    def read_out(features, labels, *test, probe, seed):
        seen.append((labels.bincount().tolist(), len(test[1]), probe))
        return type("Scores", (), {"top1": 50.0, "top5": 100.0})

    monkeypatch.setattr("alphareq_lightning.sweep.trial.read_out", read_out)
    options = {"probe": "knn", "labels_per_class": 3}
    sweep(capsys, write_sweep(tmp_path, trials=1, readout=options))
    assert seen == [([3, 3, 3, 3], 200, "knn")]


@pytest.mark.parametrize(("layer", "take"), [(None, "output"), ("head", "input")])
def test_the_readout_sees_the_features_whose_alpha_is_measured(layer, take):
    module = TinyModule().eval()
    features = monitored_features(module, AlphaMonitor(layer, take=take)).eval()
    torch.testing.assert_close(features(images(20)), module.backbone(images(20)))


def test_a_worker_that_was_taken_for_dead_lets_go(tmp_path, capsys, monkeypatch):
    config = write_sweep(tmp_path, trials=2)
    run_trial = study_room.run_trial
    buried = []

    def slow(given, trial):
        value = run_trial(given, trial)
        if not buried:  # the machine slept, and the others have failed this trial
            buried.append(trial.number)
            open_study(config).tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return value

    monkeypatch.setattr(study_room, "run_trial", slow)
    assert main(["sweep", "--config", str(config)]) == 0
    assert "trial 0: was taken over by another worker" in capsys.readouterr().out
    states = [(t.user_attrs["slot"], t.state.name) for t in open_study(config).trials]
    assert states == [(0, "FAIL"), (1, "COMPLETE"), (0, "COMPLETE")]
