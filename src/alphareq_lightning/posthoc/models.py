"""Where the models behind checkpoint files come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from alphareq_lightning.callbacks.plain_pickle import check_pickle
from alphareq_lightning.errors import DataError, OptionError, SelectionError
from alphareq_lightning.files import read_yaml
from alphareq_lightning.profile.models import fitting_weights, load_model
from alphareq_lightning.text import first_line, one_line


class LoadedModel(NamedTuple):
    """A model with the weights of one file."""

    module: nn.Module
    epoch: int
    global_step: int


class ModelSource:
    """Builds a model and loads the weights of a checkpoint into it.

    Exactly one of the first three arguments says what to build.

    Args:
        config: A LightningCLI config with a ``model`` section, for example the ``config.yaml``
            that LightningCLI wrote beside the checkpoints.
        module_class: Import path of a LightningModule; its arguments are the hyperparameters
            stored in each checkpoint.
        architecture: Name of a torchvision or timm model; files are bare weights, or checkpoints
            of anything that contains that network.
        trust: Unpickle code from checkpoints. Without it a file that needs that is refused.

    Raises:
        OptionError: If there is not one source, or it cannot be found.
    """

    def __init__(
        self,
        *,
        config: Path | None = None,
        module_class: str | None = None,
        architecture: str | None = None,
        trust: bool = False,
    ) -> None:
        given = [x for x in (config, module_class, architecture) if x is not None]
        if len(given) != 1:
            raise OptionError(
                "say what the weights belong to, by one of: --config (a LightningCLI config), "
                "--module (import path of a LightningModule), --model (a torchvision or timm name)"
            )
        self.trust = trust
        self.is_architecture = architecture is not None
        self._build: Callable[[Mapping[str, Any]], nn.Module]
        if config is not None:
            self._build = _from_config(config)
        elif module_class is not None:
            self._build = _from_class(module_class)
        else:
            self._build = _from_architecture(str(architecture))

    def load(self, path: Path) -> LoadedModel:
        """The model with the weights of a file, in eval mode.

        Raises:
            SelectionError: If the file cannot be read safely, or does not fit the model.
        """
        checkpoint = _read(path, self.trust)
        module = self._build(checkpoint)
        try:
            if self.is_architecture:
                weights = fitting_weights(module, checkpoint, path)
                module.load_state_dict(weights, strict=False)
            else:
                module.load_state_dict(checkpoint.get("state_dict", checkpoint))
        except DataError as error:
            raise SelectionError(str(error)) from error
        except Exception as error:  # names that are no text, tensors that are none
            reason = one_line(error)
            raise SelectionError(f"{path} does not fit the model: {reason[:300]}") from error
        epoch, step = (checkpoint.get(key) for key in ("epoch", "global_step"))
        return LoadedModel(
            module.eval(),
            epoch if isinstance(epoch, int) else 0,
            step if isinstance(step, int) else 0,
        )


def read_config(path: Path) -> dict[str, Any]:
    """A LightningCLI config as a mapping.

    Raises:
        OptionError: If the file is missing, or is no YAML mapping.
    """
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read the config {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise OptionError(f"the config {path} is no mapping of sections")
    return values


def instantiate(base: type, section: Any, where: str) -> Any:
    """Build the object that a ``class_path`` section of a LightningCLI config describes.

    Raises:
        OptionError: If the section is missing or wrong.
    """
    from jsonargparse import ArgumentParser

    if not isinstance(section, dict) or "class_path" not in section:
        raise OptionError(f"{where} has no section with a class_path for a {base.__name__}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "object", required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"object": section})).object
    except Exception as error:  # jsonargparse raises what the class raised
        raise OptionError(f"{where}: {one_line(error)}") from error


def _from_config(path: Path) -> Callable[[Mapping[str, Any]], nn.Module]:
    from lightning.pytorch import LightningModule

    section = read_config(path).get("model")

    def build(checkpoint: Mapping[str, Any]) -> nn.Module:
        module: nn.Module = instantiate(LightningModule, section, f"the config {path}")
        return module

    build({})  # a wrong config is found before the first file is read
    return build


def _from_class(name: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:  # what a module raises while it is imported
        raise OptionError(
            f"cannot import {name!r} ({one_line(error)}); expected package.module.Class"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise OptionError(f"{name!r} is no LightningModule")

    def build(checkpoint: Mapping[str, Any]) -> nn.Module:
        stored = checkpoint.get("hyper_parameters", {})
        if not isinstance(stored, Mapping):
            raise SelectionError(
                f"the hyperparameters in the checkpoint are a {type(stored).__name__}, no mapping"
            )
        # LightningCLI adds _class_path and _instantiator.
        arguments = {k: value for k, value in stored.items() if not str(k).startswith("_")}
        try:
            module: nn.Module = found(**arguments)
        except Exception as error:  # of somebody's class, for numbers from anywhere
            raise SelectionError(
                f"{class_name} cannot be built from the hyperparameters in the checkpoint "
                f"({one_line(error)}); call self.save_hyperparameters() in it, or pass --config"
            ) from error
        return module

    return build


def _from_architecture(name: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    load_model(name)  # a wrong name is found before the first file is read
    return lambda checkpoint: load_model(name).module


def _read(path: Path, trust: bool) -> Mapping[str, Any]:
    if not path.is_file():
        raise SelectionError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if not trust:
            check_pickle(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise SelectionError(
            f"{path} cannot be read safely: {first_line(error)}; "
            "if you trust its origin with your machine, pass --trust"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise SelectionError(f"{path} holds a {type(checkpoint).__name__}, not weights by name")
    return checkpoint
