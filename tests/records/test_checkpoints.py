import copy
import os
import pickle
import time
from pathlib import Path

import pytest
import torch

from alphareq_lightning import AlphaRecord, SelectionError, records_from_checkpoints
from alphareq_lightning.errors import LayerWarning
from alphareq_lightning.records import Corrected, Fit
from alphareq_lightning.records.checkpoints import history_from_state, history_to_state

RECORD = {
    "alpha": 0.9,
    "r2": 1.0,
    "stderr": 0.0,
    "fit_range": [4, 51],
    "num_samples": 9,
    "num_features": 4,
    "global_step": 5,
}


def save(path, history, key="AlphaMonitor{'layer': None}"):
    torch.save({"callbacks": {key: {"history": history}}}, path)
    return path


def test_newest_record_of_each_file_with_its_path(tmp_path):
    path = save(tmp_path / "a.ckpt", [RECORD, {**RECORD, "alpha": 1.1, "global_step": 9}])
    [record] = records_from_checkpoints([path])
    assert (record.alpha, record.path, record.fit_range) == (1.1, str(path), (4, 51))


def test_of_several_layers_the_first(tmp_path):
    layers = [{**RECORD, "layer": "a"}, {**RECORD, "layer": "b"}]
    path = save(tmp_path / "a.ckpt", layers)
    with pytest.warns(LayerWarning, match="of layer 'a' are read; there are others, of 'b': name"):
        assert records_from_checkpoints([path])[0].layer == "a"
    assert records_from_checkpoints([path], layer="b")[0].layer == "b"


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = save(tmp_path / "good.ckpt", [RECORD])
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"callbacks": Payload()}))
    torch.save({"callbacks": Payload()}, tmp_path / "evil_zip.ckpt")
    for name in ("cut", "text", "evil", "evil_zip"):
        with pytest.raises(SelectionError, match=f"{name}.ckpt cannot be read safely") as caught:
            records_from_checkpoints([tmp_path / f"{name}.ckpt"])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_other_files(tmp_path):
    torch.save({"weights": 1}, tmp_path / "bare.pt")
    torch.save({"callbacks": {"ModelCheckpoint": {}}}, tmp_path / "other.ckpt")
    for path, text in (
        (tmp_path / "bare.pt", "has no callback states: .* save_weights_only=True"),
        (tmp_path / "other.ckpt", "carries no record of α; was AlphaMonitor in the Trainer"),
        (tmp_path / "gone.ckpt", "there is no checkpoint"),
        (save(tmp_path / "empty.ckpt", []), "carries no record of α"),
        (save(tmp_path / "odd.ckpt", [{"x": 1}]), "not a record of α"),
    ):
        with pytest.raises(SelectionError, match=text):
            records_from_checkpoints([path])
    (tmp_path / "folder").mkdir()
    with pytest.raises(SelectionError, match=r"no \*.ckpt file in the folder"):
        records_from_checkpoints([tmp_path / "folder"])


@pytest.mark.parametrize(
    "state",
    [
        [1],
        None,
        {"history": 5},
        {"history": [None]},
        {"history": [{**RECORD, "global_step": "a"}]},
        {"history": [{**RECORD, "scores": 5}]},
        {"history": [{**RECORD, "eigenvalues": ["a"]}]},
    ],
    ids=str,
)
def test_foreign_states_are_refused_in_one_line(tmp_path, state):
    path = tmp_path / "odd.ckpt"
    torch.save({"callbacks": {"AlphaMonitor": state}}, path)
    with pytest.raises(SelectionError, match=r"odd.ckpt: (not a record of α|expected a state)"):
        records_from_checkpoints([path])


@pytest.mark.timeout(30)
def test_a_state_that_holds_itself_again_and_again_is_shown_in_short(tmp_path):
    """785 bytes; written out they have half a billion lists."""
    state = []
    for _ in range(39):
        state = [state, state]
    path = tmp_path / "nested.ckpt"
    torch.save({"callbacks": {"AlphaMonitor": state}}, path)
    with pytest.raises(SelectionError, match=r"got \[\[a list of 2, a list of 2\], \[a list"):
        records_from_checkpoints([path])


def test_a_history_that_holds_itself():
    history = [RECORD]
    history.append(history)
    with pytest.raises(SelectionError, match="expected a history of records, got one nested too"):
        history_from_state({"history": history})


def test_one_list_named_a_million_times(tmp_path):
    record = {**RECORD, "eigenvalues": [1.0] * 60_000}
    path = save(tmp_path / "many.ckpt", [record] * 400)
    with pytest.raises(SelectionError, match="at most 20000000 numbers in a history"):
        records_from_checkpoints([path])


@pytest.mark.parametrize("change", [{"epoch": float("inf")}, {"alpha": 10**400}], ids=str)
def test_numbers_that_no_training_has_are_refused(tmp_path, change):
    """A resume goes on with an empty history; an OverflowError would have ended it."""
    with pytest.raises(SelectionError, match="not a record of α"):
        history_from_state({"history": [{**RECORD, **change}]})


def test_distributed_checkpoints_are_called_what_they_are(tmp_path):
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    (folder / "__0_0.distcp").write_text("x")
    for path in (folder, tmp_path):
        with pytest.raises(SelectionError, match="last.ckpt is a distributed checkpoint"):
            records_from_checkpoints([path])


def test_old_records_are_kept_without_their_spectra(tmp_path):
    values = {**RECORD, "metrics": {f"m{i}": 1.0 for i in range(20)}}
    spectrum = [1.0 / n for n in range(1, 513)]
    history = [
        AlphaRecord.from_dict({**values, "global_step": step, "eigenvalues": spectrum})
        for step in range(5000)
    ]
    ours, deep = [], []
    for _ in range(3):  # the first one pays for collecting the garbage of all
        started = time.process_time()
        state = history_to_state(history)
        copied = time.process_time()
        copy.deepcopy(state)
        ours.append(copied - started)
        deep.append(time.process_time() - copied)
    assert min(ours) < min(deep)  # as long when every record was copied deeply
    torch.save({"callbacks": {"AlphaMonitor": state}}, tmp_path / "long.ckpt")
    assert (tmp_path / "long.ckpt").stat().st_size < 3e6  # 24.8 MB with all spectra
    again, _ = history_from_state(state)
    assert [r.global_step for r in again] == list(range(5000))
    assert [len(r.eigenvalues) for r in again] == [512] + [0] * 4899 + [512] * 100
    [newest] = records_from_checkpoints([tmp_path / "long.ckpt"])
    assert newest.eigenvalues == history[-1].eigenvalues


def test_a_checkpoint_of_format_1():
    """Saved by the version before records had a format number."""
    path = Path(__file__).parent / "format1.ckpt"
    [fitted] = records_from_checkpoints([path], layer="backbone")
    [collapsed] = records_from_checkpoints([path], layer="collapsed")
    assert fitted.fit == Fit(0.9623469571161022, 0.9690389556344028, 0.06501593913886675, (2, 10))
    assert fitted.corrected == Corrected(0.9056797742976905, 0.12291613161556714)
    assert fitted.refit((2, 10)).alpha == pytest.approx(fitted.alpha, abs=1e-12)
    assert collapsed.fit is collapsed.corrected is None
    assert "(collapse)" in collapsed.problem
    [state] = torch.load(path, weights_only=True)["callbacks"].values()
    history, run = history_from_state(state)
    again, _ = history_from_state(history_to_state(history, run))
    assert [r.to_json() for r in again] == [r.to_json() for r in history]
    assert [r.layer for r in again] == ["backbone", "collapsed"] * 2


def test_one_path_is_no_list_of_letters(tmp_path):
    with pytest.raises(SelectionError, match="there is no checkpoint .*gone.ckpt"):
        records_from_checkpoints(str(tmp_path / "gone.ckpt"))


def test_hyperparameters_are_those_of_the_checkpoint(tmp_path):
    path = save(tmp_path / "a.ckpt", [RECORD, {**RECORD, "params": {"lr": 0.2}, "layer": "b"}])
    values = {"lr": 0.1, "depth": 3, "bias": True, "name": "adam", "none": None, "widths": [1, 2]}
    hostile = {"huge": 10**300, "nan": float("nan"), "long": "x" * 10_000, 7: 1.0}
    torch.save({**torch.load(path), "hyper_parameters": values | hostile}, path)
    [record] = records_from_checkpoints([path], layer="")
    assert record.params == {"lr": 0.1, "depth": 3, "bias": "True", "name": "adam"}
    assert AlphaRecord.from_dict(record.to_json()) == record
    assert records_from_checkpoints([path], layer="b")[0].params["lr"] == 0.2
    torch.save({**torch.load(path), "hyper_parameters": "none"}, path)
    assert records_from_checkpoints([path], layer="")[0].params == {}
