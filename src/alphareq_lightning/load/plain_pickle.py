"""The plain data of a checkpoint, without its tensors: fast enough for a thousand files."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from alphareq_lightning.files import opened

TENSOR_BUILDERS = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}
MOST_BYTES = 2**25
"""Of a checkpoint without its tensors; 5,000 records have 3 MB."""
MOST_OPERATIONS = 3_000_000
"""Of its pickle; 5,000 records have 300,000."""
MOST_ITEMS = 10_000
"""In a tuple, with all that the tuples in it hold."""
NUM_OLD_PICKLES = 5
"""That ``torch.save`` wrote one after the other before it wrote zip files."""
BINFLOAT_SIZE = 9
FLOATS = re.compile(rb"(?:G.{8})+", re.DOTALL)


def read_plain(path: Path) -> Any:
    """What ``torch.save`` wrote, with `None` in place of every tensor.

    Only the pickled structure is read, by the unpickler in C; `torch.load` takes ten times as long
    to build tensors that nobody asked for. Nothing in the file can be run: the only callable that
    it can name is `OrderedDict`.

    Raises:
        pickle.UnpicklingError: If the file names anything else, or would take for good to read.
        OSError, zipfile.BadZipFile, ValueError: If it is no file that ``torch.save`` wrote.
    """
    with opened(path) as file:
        return _PlainUnpickler(io.BytesIO(_structure(file))).load()


def check_pickle(path: Path) -> None:
    """Refuse a file that would take for good to read, before `torch.load` reads it.

    Raises:
        pickle.UnpicklingError: If it is one.
        OSError, zipfile.BadZipFile, ValueError: If it is no file that ``torch.save`` wrote.
    """
    with opened(path) as file:
        if zipfile.is_zipfile(file):
            _structure(file)
            return
        file.seek(0)
        head = file.read(MOST_BYTES)
    start = 0
    for _ in range(NUM_OLD_PICKLES):
        start = _check(head, start)


def _structure(file: BinaryIO) -> bytes:
    """The checked pickle in a zip file of ``torch.save``."""
    with zipfile.ZipFile(file) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
        if len(found) != 1:
            raise ValueError(f"expected a zip file with one data.pkl, got {len(found)} of them")
        if found[0].file_size > MOST_BYTES:
            raise pickle.UnpicklingError(f"it has {found[0].file_size} bytes beside its tensors")
        data = archive.read(found[0])
    _check(data)
    return data


def _check(data: bytes, start: int = 0) -> int:
    """Refuse a pickle that takes for good, or all memory; where it ends.

    A tuple that holds another twice, forty deep, takes a few hundred bytes. As the key of a dict
    it is hashed item by item, which takes years and cannot be interrupted. So the pickle is run
    with sizes in place of values first: 1, and for a tuple all that it holds.
    """
    try:
        return _run_sizes(data, start)
    except (LookupError, ValueError) as error:
        raise pickle.UnpicklingError("it is no file that torch.save wrote") from error


def _run_sizes(data: bytes, start: int) -> int:
    file = io.BytesIO(data)
    file.seek(start)
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for _ in range(MOST_OPERATIONS):
        if floats := FLOATS.match(data, file.tell()):  # most of a history
            stack += [1] * (len(floats.group()) // BINFLOAT_SIZE)
            file.seek(floats.end())
        name, argument, num_before, is_marked, num_after = OPCODES[file.read(1)]
        value: Any = argument.reader(file) if argument else None
        if name == "STOP":
            return file.tell()
        if name == "MARK":
            marks.append(len(stack))
        elif name.endswith("GET"):
            stack.append(memo[int(value)])
        elif name.endswith("PUT") or name == "MEMOIZE":
            key = len(memo) if value is None else int(value)
            if key > len(data):  # the unpickler takes memory for all numbers before it
                raise pickle.UnpicklingError(f"it numbers its objects up to {key}")
            memo[key] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        else:
            bottom = (marks.pop() if is_marked else len(stack)) - num_before
            size = sum(stack[bottom:], 1) if "TUPLE" in name else 1
            del stack[bottom:]
            if size > MOST_ITEMS:
                raise pickle.UnpicklingError(f"it holds a tuple of more than {MOST_ITEMS} items")
            stack += [size] * num_after
    raise pickle.UnpicklingError(f"it holds more than {MOST_OPERATIONS} objects")


def _arity(opcode: pickletools.OpcodeInfo) -> tuple[str, Any, int, bool, int]:
    """Its name, its argument, what it takes from below a mark, if there is one, and leaves."""
    before, mark = opcode.stack_before, pickletools.markobject
    is_marked = mark in before
    num_before = before.index(mark) if is_marked else len(before)
    return opcode.name, opcode.arg, num_before, is_marked, len(opcode.stack_after)


OPCODES = {opcode.code.encode("latin-1"): _arity(opcode) for opcode in pickletools.opcodes}


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
