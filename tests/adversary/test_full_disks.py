"""A disk that is full at one moment or another: nothing is paid twice, no file is half there."""

import errno
import json
import multiprocessing
import os
from contextlib import contextmanager, suppress

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from alphareq_lightning import AlphaMonitor, SelectionError, files
from alphareq_lightning.commands.main import main
from alphareq_lightning.readout import cached_features
from alphareq_lightning.records import append_record, read_records, write_records
from alphareq_lightning.report.page import write_report
from alphareq_lightning.report.ranking import ranking_plot
from alphareq_lightning.selection import AlphaIntervalSearch, select_by_readouts

from plain_records import plain_record
from sweeps import WIDTHS, write_sweep
from tiny import TinyModule, labelled_loader, make_trainer

pytestmark = [pytest.mark.slow, pytest.mark.adversary("writes to full disks, and by many at once")]


def record(place, alpha=1.0, **values):
    eigenvalues = [1 / n for n in range(1, 100)]
    return plain_record(alpha=alpha, path=f"{place}.ckpt", eigenvalues=eigenvalues, **values)


RECORDS = [record(place, 0.4 + 0.1 * place) for place in range(12)]


class Reads:
    """Readouts, each of which is to be paid for once."""

    def __init__(self):
        self.paid = []

    def __call__(self, model):
        self.paid.append(model.path)
        return 90 - 25 * (model.alpha - 1) ** 2


@contextmanager
def full_disk(monkeypatch, first, last=10**9):
    """Every write of ours from the first to the last finds a full disk, but room once taken."""
    calls = [0]
    real = os.fsync

    def fsync(descriptor):
        calls[0] += 1
        if first <= calls[0] <= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        yield


@pytest.mark.parametrize("moment", range(1, 32))
@pytest.mark.parametrize("length", [1, 2, 10**9], ids=["once", "twice", "for-good"])
def test_a_search_that_finds_a_full_disk_goes_on_later(tmp_path, monkeypatch, moment, length):
    read = Reads()
    straight = select_by_readouts(RECORDS, Reads(), tmp_path / "straight", top_k=2)
    with full_disk(monkeypatch, moment, moment + length - 1), suppress(SelectionError):
        select_by_readouts(RECORDS, read, tmp_path / "cut", top_k=2)
    again = select_by_readouts(RECORDS, read, tmp_path / "cut", top_k=2)
    assert again.records == straight.records
    lost = len(read.paid) - len(set(read.paid))
    # Where room was taken, one failing write is made up for by giving it back.
    assert lost == 0 or length > 1
    assert not list((tmp_path / "cut").glob("*.part"))


@pytest.mark.parametrize("room", range(4096, 61440, 4096))
def test_a_search_on_a_disk_that_fills_up(small_disk, room):
    straight = select_by_readouts(RECORDS, Reads(), small_disk.parent / "straight", top_k=2)
    (small_disk / "others").write_bytes(bytes(65536 - 4096 - room))
    read = Reads()
    try:
        again = select_by_readouts(RECORDS, read, small_disk / "out", top_k=2)
    except SelectionError:
        (small_disk / "others").unlink()
        again = select_by_readouts(RECORDS, read, small_disk / "out", top_k=2)
    assert again.records == straight.records
    assert len(read.paid) == len(set(read.paid))


@pytest.mark.parametrize("readouts_before", range(7))
def test_a_search_whose_disk_is_filled_by_others_during_a_readout(small_disk, readouts_before):
    straight = select_by_readouts(RECORDS, Reads(), small_disk.parent / "straight", top_k=2)
    read = Reads()

    def greedy(model):
        if len(read.paid) == readouts_before:
            others = open(small_disk / "others", "wb", buffering=0)  # noqa: SIM115
            with others, suppress(OSError):
                while others.write(bytes(4096)):
                    pass
        return read(model)

    with pytest.raises(SelectionError, match="No space left on device"):
        select_by_readouts(RECORDS, greedy, small_disk / "out", top_k=2)
    (small_disk / "others").unlink()
    again = select_by_readouts(RECORDS, read, small_disk / "out", top_k=2)
    assert again.records == straight.records
    assert len(read.paid) == len(set(read.paid))


def writers():
    import torch

    from alphareq_lightning.selection import paid_readouts

    return {
        "records": lambda path: write_records(path, RECORDS),
        "search": lambda path: AlphaIntervalSearch().save(path),
        "settings": lambda path: paid_readouts._check_settings(path.parent, {"seed": 0}),
        "report": lambda path: write_report(path, RECORDS),
        "plot": lambda path: ranking_plot(RECORDS, 1.0, path),
        "features": lambda path: cached_features(
            path.parent, path.stem, lambda: (torch.ones(2, 3), torch.ones(2))
        ),
    }


NAMES = {"settings": "settings.json", "plot": "plot.png", "features": "key.pt"}


@pytest.mark.parametrize("before", [None, b"what was there before"], ids=["new", "old"])
@pytest.mark.parametrize("how", ["fsync", "replace", "write"])
@pytest.mark.parametrize("name", sorted(writers()))
def test_a_file_is_there_as_a_whole_or_as_it_was(tmp_path, monkeypatch, name, how, before):
    if name == "settings" and before is not None:
        pytest.skip("settings that are there are read, and not written")
    path = tmp_path / NAMES.get(name, name)
    if before is not None:
        path.write_bytes(before)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if how == "write":  # before anything was written at all
            patch.setattr(files.Path, "with_name", full)
        else:
            patch.setattr(files.os, how, full)
        try:
            writers()[name](path)
        except (OSError, ValueError):
            assert name != "features"  # those are made, and not kept
    assert (path.read_bytes() if path.exists() else None) == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []
    if before is not None:
        path.unlink()
    writers()[name](path)
    assert path.stat().st_size > 0


def append_many(path, gate, start, number):
    gate.wait()
    for place in range(start, start + number):
        append_record(path, record(place))


@pytest.mark.parametrize("kind", ["same name", "link", "folder link", "relative"])
def test_records_appended_by_several_processes_under_several_names(
    tmp_path, monkeypatch, record_property, kind
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "records.jsonl"
    os.symlink(real, tmp_path / "link.jsonl")
    os.symlink(tmp_path / "real", tmp_path / "folder")
    other = {
        "same name": real,
        "link": tmp_path / "link.jsonl",
        "folder link": tmp_path / "folder" / "records.jsonl",
        "relative": "real/../real/records.jsonl",
    }[kind]
    number = 200
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(4)
    processes = [
        context.Process(target=append_many, args=(path, gate, number * k, number))
        for k, path in enumerate((real, other, real, other))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = [r.path for r in read_records(real)]
    record_property("tried", 4 * number)
    record_property("held", len(set(found)))
    assert sorted(found) == sorted(f"{place}.ckpt" for place in range(4 * number))
    assert os.path.islink(tmp_path / "link.jsonl")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
@pytest.mark.parametrize("start", [4, 60, 150, 200, 240, 280, 320, 400, 500])
def test_a_sweep_on_a_disk_that_is_full_goes_on_when_there_is_room(
    tmp_path, disk, capsys, record_property, start
):
    pytest.importorskip("optuna")
    config = write_sweep(tmp_path, out=str(disk(start) / "out"))
    size, codes = start, []
    while not codes or codes[-1] != 0:
        codes.append(main(["sweep", "--config", str(config), "--json"]))
        out, err = capsys.readouterr()
        assert codes[-1] in (0, 2)
        assert codes[-1] == 0 or err.splitlines()[-1].startswith("alphareq: ")
        assert len(codes) < 20
        size += 100
        disk(size)
    summary = json.loads(out)
    assert (summary["num_slots"], summary["num_done"], summary["failed"]) == (4, 4, [])
    assert sorted(t["params"]["model.width"] for t in summary["trials"]) == WIDTHS
    record_property("tried", len(codes) * 4)


@pytest.mark.parametrize("kibibytes", [200, 300, 500])
@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_a_training_with_tensorboard_lives_as_long_as_without_the_monitor(disk, kibibytes):
    folder = disk(kibibytes)
    ends = []
    for monitor in (AlphaMonitor(scores=()), None):
        logger = TensorBoardLogger(folder, name=str(monitor is None))
        callbacks = [] if monitor is None else [monitor]
        trainer = make_trainer(folder, *callbacks, logger=logger, max_epochs=12)
        with suppress(OSError):
            trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
        ends.append(trainer.current_epoch)
        with suppress(OSError):
            logger.experiment.close()
    assert ends == [12, 12]
