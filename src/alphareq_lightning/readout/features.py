"""Features of a dataset, extracted once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphareq_lightning.errors import DataError
from alphareq_lightning.files import written_beside

Extracted = tuple[Tensor, Tensor]
KEY_LENGTH = 24
CHUNK = 2**20


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    loader: Iterable[Any],
    device: torch.device | str = "cpu",
) -> Extracted:
    """Features and labels of a dataset, with the backbone in eval mode.

    Every submodule is back in its own mode afterwards.

    Args:
        backbone: Images ``(n, c, h, w)`` → features ``(n, d)``; left on ``device``.
        loader: Batches of ``(images, labels)``.
        device: Where to run.

    Returns:
        Features ``(n, d)`` and labels ``(n,)``, on the CPU.

    Raises:
        DataError: If the loader is empty.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.to(device).eval()
    features, labels = [], []
    try:
        for images, targets in loader:
            features.append(backbone(images.to(device)).flatten(start_dim=1).float().cpu())
            labels.append(targets)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not features:
        raise DataError("the loader gave no batch; a readout needs labelled images")
    return torch.cat(features), torch.cat(labels)


def cached_features(folder: Path | None, key: str, make: Callable[[], Extracted]) -> Extracted:
    """What ``make`` gives, from disk if it was made before.

    Args:
        folder: Where files lie, or `None` to make it every time.
        key: Names everything that the features depend on, see `features_key`.
        make: Extracts them.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> made = (torch.ones(2, 3), torch.tensor([0, 1]))
        >>> cached_features(folder, "a", lambda: made)[1].tolist()
        [0, 1]
        >>> cached_features(folder, "a", lambda: 1 / 0)[1].tolist()
        [0, 1]
    """
    if folder is None:
        return make()
    path = folder / f"{key}.pt"
    try:
        features, labels = torch.load(path, weights_only=True)
        return features, labels
    except Exception:  # missing, or cut by a full disk: made again
        features, labels = make()
    # A full disk keeps nothing, and the features are there all the same.
    with suppress(OSError, RuntimeError), written_beside(path) as unfinished:
        torch.save((features, labels), unfinished)
    return features, labels


def features_key(*parts: Any) -> str:
    """A name for features made of ``parts``; a file counts with its content, all else by `repr`.

    Example:
        >>> features_key("backbone", 32) == features_key("backbone", 32)
        True
        >>> features_key("backbone", 32) == features_key("backbone", 64)
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path) and part.is_file():
            with part.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:KEY_LENGTH]
