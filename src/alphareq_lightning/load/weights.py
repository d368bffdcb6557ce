"""Files of weights: found, read without running what is in them, and fitted to a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphareq_lightning.errors import WeightsError
from alphareq_lightning.load.plain_pickle import check_pickle
from alphareq_lightning.text import first_line, one_line

WEIGHT_FILES = (".ckpt", ".pt", ".pth", ".safetensors")
STATE_KEYS = ("state_dict", "model", "model_state_dict")
SHOWN_KEYS = 4
SHOWN_CHARACTERS = 300


def find_weights(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and all files of weights below the folders among ``paths``.

    Raises:
        WeightsError: If there is none in a folder.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_FILES)
        if path.is_dir() and not inside:
            raise WeightsError(f"no file {', '.join(WEIGHT_FILES)} in the folder {path}")
        found += inside if path.is_dir() else [path]
    return found


def read_weights(path: Path, *, trust: bool = False) -> Mapping[str, Any]:
    """A state dict, or a checkpoint that holds one; also of safetensors.

    Args:
        path: The file.
        trust: Run the code that it wants to run. Without it a file that needs that is refused.

    Raises:
        WeightsError: If it cannot be read safely, or holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if not trust:
            check_pickle(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise WeightsError(
            f"{path} cannot be read safely as weights: {first_line(error)}; "
            "if you trust its origin with your machine, pass --trust"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path} holds a {type(checkpoint).__name__}, not weights by name")
    return checkpoint


def load_weights(model: nn.Module, path: Path, *, trust: bool = False) -> None:
    """Load a file that holds a network's weights under any prefix, its classifier aside.

    Raises:
        WeightsError: As `read_weights` and `fit_weights`.
    """
    fit_weights(model, read_weights(path, trust=trust), path)


def fit_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], path: Path, *, exactly: bool = False
) -> None:
    """Load what `read_weights` gave into a model.

    Args:
        model: Says which names and shapes are wanted.
        checkpoint: A state dict, or a mapping that holds one.
        path: Where it came from, for messages.
        exactly: Every weight by its own name, as a LightningModule saves them. Without it the
            model may be any part of what was saved, and its classifier may be missing:
            self-supervised weights often come without.

    Raises:
        WeightsError: If there are no weights, or they do not fit.
    """
    try:
        if exactly:
            model.load_state_dict(checkpoint.get("state_dict", checkpoint))
        else:
            model.load_state_dict(_own_part(model, checkpoint, path), strict=False)
    except WeightsError:
        raise
    except Exception as error:  # names that are no text, tensors that are none
        reason = one_line(error)[:SHOWN_CHARACTERS]
        raise WeightsError(f"{path} does not fit the model: {reason}") from error


def _own_part(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    state = _state_dict(checkpoint, path)
    expected = model.state_dict()
    prefixes = {""} | {
        ".".join(parts[:depth]) + "."
        for parts in (name.split(".") for name in state)
        for depth in range(1, len(parts))
    }

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name: state[prefix + name]
            for name, value in expected.items()
            if prefix + name in state and state[prefix + name].shape == value.shape
        }

    fitting = max((under(prefix) for prefix in sorted(prefixes)), key=len)
    optional = _classifier_keys(model)
    missing = [key for key in expected if key not in fitting and key not in optional]
    if missing or not fitting:
        shown = ", ".join(missing[:SHOWN_KEYS])
        raise WeightsError(
            f"{path} does not fit the model: {len(missing)} of {len(expected)} tensors are missing "
            f"or have another shape, for example {shown}"
        )
    return fitting


def _state_dict(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    for key in STATE_KEYS:
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    state = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path} holds no state dict")
    # What torch.compile puts into every name.
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}


def _classifier_keys(model: nn.Module) -> set[str]:
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    batches = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    return batches | ({f"{linears[-1]}.weight", f"{linears[-1]}.bias"} if linears else set())
