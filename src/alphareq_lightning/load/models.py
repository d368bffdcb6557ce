"""Where the models behind checkpoint files come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from alphareq_lightning.errors import OptionError, WeightsError
from alphareq_lightning.files import read_yaml
from alphareq_lightning.load.architectures import build_architecture
from alphareq_lightning.load.preprocessing import Preprocessing
from alphareq_lightning.load.weights import fit_weights, read_weights
from alphareq_lightning.text import one_line

BASES = ("LightningModule", "LightningDataModule")


class LoadedModel(NamedTuple):
    """A model with the weights of one file."""

    module: nn.Module
    epoch: int
    global_step: int


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What the weights belong to, one of.

    It is looked for when it is first needed, which raises an `OptionError` if there is not one
    source, or it cannot be found.

    Args:
        config: A LightningCLI config, for example the one that LightningCLI wrote beside the
            checkpoints.
        module: Import path of a LightningModule. Its arguments are those in ``config``, if
            LightningCLI wrote it for this one class, or else the hyperparameters in a checkpoint.
        model: A torchvision or timm model; files are bare weights, or checkpoints of anything that
            contains that network.
        trust: Run code that a checkpoint wants to run. Without it such a file is refused.
    """

    config: Path | None = None
    module: str | None = None
    model: str | None = None
    trust: bool = False

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What a ``model`` expects of its images; a LightningModule's trainer prepares its own."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Callable[[Mapping[str, Any]], nn.Module], Preprocessing | None]:
        by_module = self.config is not None or self.module is not None
        if by_module == (self.model is not None):
            raise OptionError(
                "say what the weights belong to, by one of: --config (a LightningCLI config), "
                "--module (import path of a LightningModule), --model (a torchvision or timm name)"
            )
        if self.config is not None:
            return _from_config(self.config, self.module), None
        if self.module is not None:
            return _from_class(self.module), None
        name = str(self.model)
        prepared = build_architecture(name).preprocessing
        return lambda checkpoint: build_architecture(name).module, prepared

    def load(self, path: Path) -> LoadedModel:
        """The model with the weights of a file, in eval mode.

        Raises:
            WeightsError: If the file cannot be read safely, or does not fit the model.
        """
        build, prepared = self._found
        checkpoint = read_weights(path, trust=self.trust)
        module = build(checkpoint)
        fit_weights(module, checkpoint, path, exactly=prepared is None)
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


def instantiate(base: type, section: Any, where: str, *, option: str) -> Any:
    """Build the object that a section of a LightningCLI config describes.

    Args:
        base: Of which a ``class_path`` in the section must name a subclass; or, where it names
            none, as ``LightningCLI(MyModel, MyData)`` writes it, the class itself.
        section: What the config says.
        where: What to call it.
        option: How users name the class otherwise.

    Raises:
        OptionError: If the section is missing or wrong.
    """
    from jsonargparse import ArgumentParser

    if not isinstance(section, dict):
        raise OptionError(f"{where} has no section for a {base.__name__}")
    parser = ArgumentParser(exit_on_error=False)
    if "class_path" in section:
        parser.add_subclass_arguments(base, "object", required=True)
    elif base.__name__ in BASES:
        raise OptionError(
            f"{where} has no class_path for a {base.__name__}, as LightningCLI writes it where its "
            f"class is fixed; name it with {option}"
        )
    else:
        parser.add_class_arguments(base, "object")
    try:
        return parser.instantiate_classes(parser.parse_object({"object": section})).object
    except Exception as error:  # jsonargparse raises what the class raised
        raise OptionError(f"{where}: {one_line(error)}") from error


def _from_config(path: Path, module_class: str | None) -> Callable[[Mapping[str, Any]], nn.Module]:
    from lightning.pytorch import LightningModule

    base = LightningModule if module_class is None else _import_module_class(module_class)
    section = read_config(path).get("model")
    if section is None and module_class is not None:
        section = {}  # a model without arguments

    def build(checkpoint: Mapping[str, Any]) -> Any:
        return instantiate(base, section, f"the config {path}", option="--module")

    build({})  # a wrong config is found before the first file is read
    return build


def _import_module_class(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:  # what a module raises while it is imported
        raise OptionError(
            f"cannot import {name!r} ({one_line(error)}); expected package.module.Class"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise OptionError(f"{name!r} is no LightningModule")
    return found


def _from_class(name: str) -> Callable[[Mapping[str, Any]], nn.Module]:
    found, class_name = _import_module_class(name), name.rpartition(".")[2]

    def build(checkpoint: Mapping[str, Any]) -> nn.Module:
        stored = checkpoint.get("hyper_parameters", {})
        if not isinstance(stored, Mapping):
            raise WeightsError(
                f"the hyperparameters in the checkpoint are a {type(stored).__name__}, no mapping"
            )
        # LightningCLI adds _class_path and _instantiator.
        arguments = {k: value for k, value in stored.items() if not str(k).startswith("_")}
        try:
            return found(**arguments)
        except Exception as error:  # of somebody's class, for numbers from anywhere
            raise WeightsError(
                f"{class_name} cannot be built from the hyperparameters in the checkpoint "
                f"({one_line(error)}); call self.save_hyperparameters() in it, or pass --config"
            ) from error

    return build
