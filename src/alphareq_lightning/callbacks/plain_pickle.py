"""The plain data of a checkpoint, without its tensors: fast enough for a thousand files."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

TENSOR_BUILDERS = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


def read_plain(path: Path) -> Any:
    """What ``torch.save`` wrote, with `None` in place of every tensor.

    Only the pickled structure is read, by the unpickler in C; `torch.load` takes ten times as long
    to build tensors that nobody asked for. Nothing in the file can be run: the only callable that
    it can name is `OrderedDict`.

    Raises:
        pickle.UnpicklingError: If the file names anything else.
        OSError, zipfile.BadZipFile, KeyError: If it is no file that ``torch.save`` wrote.
    """
    with zipfile.ZipFile(path) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("/data.pkl")] or [""]
        with archive.open(name) as file:
            return _PlainUnpickler(file).load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in TENSOR_BUILDERS:
            return _no_tensor
        if module == "torch" and name.endswith("Storage"):
            return None
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")

    def persistent_load(self, pid: Any) -> None:
        return None


def _no_tensor(*parts: Any) -> None:
    return None
