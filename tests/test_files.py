"""The one way to write a file, and to read one that anybody may have made."""

import errno
import os
import threading

import pytest

from alphareq_lightning import files
from alphareq_lightning.files import opened, read_small, read_yaml, written_beside


@pytest.mark.parametrize("moment", ["while writing", "fsync", "replace"])
def test_a_file_is_there_as_a_whole_or_as_it_was(tmp_path, monkeypatch, moment):
    path = tmp_path / "settings.json"
    path.write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        if moment != "while writing":
            patch.setattr(files.os, moment, full)
        with written_beside(path) as unfinished:
            unfinished.write_text("half of the n")
            assert path.read_text() == "old"
            if moment == "while writing":
                full()
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]
    assert path.read_text() == "old"
    with written_beside(path) as unfinished:
        unfinished.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("settings.json", "new")]


def test_links_are_followed_and_folders_are_made(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    with written_beside(tmp_path / "link") as unfinished:
        unfinished.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "x"


@pytest.mark.timeout(20)
def test_a_pipe_is_written_to_if_somebody_reads_it(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"), written_beside(pipe):
        pass
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    while True:
        try:
            with written_beside(pipe) as unfinished:
                unfinished.write_text("page")
            break
        except OSError:  # the reader is not there yet
            continue
    reader.join()
    assert read == ["page"]
    with pytest.raises(OSError, match="directory"), written_beside(tmp_path):
        pass


@pytest.mark.timeout(20)
def test_what_is_read_is_a_file_of_a_reasonable_size(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="is no regular file"), opened(path):
            pass
    (tmp_path / "large").write_bytes(bytes(101))
    monkeypatch.setattr(files, "LARGEST", 100)
    with pytest.raises(OSError, match="is larger than 100 bytes"):
        read_small(tmp_path / "large")


def test_yaml_counts_what_it_names_again_and_again(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    path.write_text(
        "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
    )
    with pytest.raises(ValueError, match="it has more than 1000000 values"):
        read_yaml(path)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(ValueError, match="it is nested too deep"):
        read_yaml(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"while parsing a flow node"):
        read_yaml(path)
