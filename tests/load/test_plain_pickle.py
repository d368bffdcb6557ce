import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from alphareq_lightning.load.plain_pickle import check_pickle, read_plain


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


def tower(depth, key):
    """A dict with an item, or a key, that holds another twice, and so on."""
    get = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))
    item = b"K\x01K\x02\x86q\x00" + get
    return b"\x80\x02}(" + (item + b"K\x01" if key else b"K\x01" + item) + b"u."


def write(path, pickled, as_zip=True):
    if as_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", pickled)
    else:
        path.write_bytes(pickled)
    return path


@pytest.mark.timeout(30, method="thread")  # hashing such a key hears no signal
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("as_zip", [True, False])
def test_what_would_take_for_good_to_read(tmp_path, key, as_zip):
    path = write(tmp_path / "bomb.ckpt", tower(40, key), as_zip)
    with pytest.raises(pickle.UnpicklingError, match="a tuple of more than 10000 items"):
        check_pickle(path)
    if as_zip:
        with pytest.raises(pickle.UnpicklingError, match="a tuple of more than 10000 items"):
            read_plain(path)
    assert check_pickle(write(tmp_path / "small.zip", tower(10, key))) is None


def test_what_would_take_all_memory(tmp_path):
    for pickled, text in (
        (b"\x80\x02]r\xff\xff\xff\xff.", "numbers its objects up to 4294967295"),
        (b"\x80\x02(" + b"]" * 3_000_001 + b"l.", "more than 3000000 objects"),
        (b"\x80\x02" + b"N0" * 17_000_000 + b"N.", r"34000004 bytes beside its tensors"),
    ):
        with pytest.raises(pickle.UnpicklingError, match=text):
            read_plain(write(tmp_path / "large.ckpt", pickled))


@pytest.mark.parametrize("as_zip", [True, False])
def test_what_torch_saves_is_let_through(tmp_path, as_zip):
    """Both formats, with all kinds of values, and as many values as objects of many kinds."""
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    values = {
        "state_dict": module.state_dict(),
        ("a", 1): {2, 3},
        "plain": [None, True, 10**30, -5, 2.5, "text", b"bytes", (1, (2, (3,)))],
        "floats": [0.1 * n for n in range(1000)],
        "size": module[0].weight.shape,
        "dtype": torch.float16,
    }
    path = tmp_path / "a.ckpt"
    torch.save(values, path, _use_new_zipfile_serialization=as_zip)
    check_pickle(path)
    for protocol in range(2, 6):
        torch.save(values, path, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
        check_pickle(path)


@pytest.mark.timeout(20)
def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    for read in (read_plain, check_pickle):
        with pytest.raises(OSError, match="is no regular file"):
            read(tmp_path / "pipe.ckpt")
