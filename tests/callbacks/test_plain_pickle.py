import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from alphareq_lightning.callbacks.plain_pickle import read_plain


def test_everything_but_tensors(tmp_path):
    module = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    plain = {"history": [{"alpha": 0.9, "fit_range": [4, 51], "problem": None}], "step": 7}
    path = tmp_path / "a.ckpt"
    torch.save(
        {
            "state_dict": module.state_dict(),
            "parameter": module.weight,
            "optimizer": optimizer.state_dict(),
            **plain,
        },
        path,
    )
    found = read_plain(path)
    assert {key: found[key] for key in plain} == plain
    assert dict(found["state_dict"]) == {"weight": None, "bias": None}
    assert found["parameter"] is None


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


class Sneaky:
    """A global that torch has, and that is no tensor builder."""

    def __reduce__(self):
        return torch.load, ("pwned",)


@pytest.mark.parametrize("thing", [Payload(), Sneaky()])
def test_nothing_is_run(tmp_path, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    torch.save({"callbacks": thing}, "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="is not plain data"):
        read_plain(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


def test_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="one data.pkl, got 0"):
        read_plain(tmp_path / "other.zip")
    with pytest.raises(zipfile.BadZipFile):
        read_plain(tmp_path / "text.ckpt")
