"""Classifiers on frozen features: what a labelled readout is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_accuracy

from alphareq_lightning.errors import DataError, OptionError, ReadoutError

Probe = Literal["logistic", "adam", "knn"]

MAX_ITERATIONS = 1000
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Of the nearest-neighbour probe, as usual since Wu et al., CVPR 2018."""
ADAM_EPOCHS, ADAM_BATCH, LABEL_SMOOTHING = 200, 512, 0.1
"""Of the linear readout in the code of the α-ReQ paper."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-6


class ReadoutScores(NamedTuple):
    """Accuracies of a readout, in percent."""

    top1: float
    """Share of images whose label is the first guess."""
    top5: float
    """With fewer than five classes, of as many as there are."""


def read_out(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    probe: Probe = "logistic",
    seed: int = 0,
) -> ReadoutScores:
    """Train a classifier on frozen features and test it on others.

    Args:
        train_features: Shape ``(n, d)``.
        train_labels: Class indices, shape ``(n,)``.
        test_features: Shape ``(m, d)``.
        test_labels: Class indices, shape ``(m,)``.
        probe: ``"logistic"``, multinomial logistic regression by L-BFGS on standardised features;
            ``"adam"``, the linear readout of the α-ReQ paper; or ``"knn"``, a vote of the 20
            neighbours with the largest cosine similarity.
        seed: Of the ``"adam"`` probe, the only one that draws.

    Raises:
        DataError: If shapes do not fit, a label is missing, or there is only one class.
        ReadoutError: If features are not finite.
        OptionError: If there is no such probe, or scikit-learn is not installed.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> read_out(x, y, x, y)
        ReadoutScores(top1=100.0, top5=100.0)
    """
    if probe not in PROBES:
        raise OptionError(f"expected probe to be one of {tuple(PROBES)}, got {probe!r}")
    _check(train_features, train_labels, "training")
    _check(test_features, test_labels, "test")
    if int(train_labels.min()) == int(train_labels.max()):
        raise DataError("a readout needs labels of at least two classes")
    num_classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    scores = PROBES[probe](
        train_features.float().cpu(),
        train_labels.long().cpu(),
        test_features.float().cpu(),
        num_classes,
        seed,
    )
    labels = test_labels.long().cpu()
    shares = (
        multiclass_accuracy(scores, labels, num_classes, "micro", min(k, num_classes))
        for k in (1, 5)
    )
    return ReadoutScores(*(round(100 * share.item(), 4) for share in shares))


def logistic_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, num_classes: int, seed: int
) -> Tensor:
    """Class scores by multinomial logistic regression, shape ``(m, num_classes)``."""
    linear_model, pipeline, preprocessing = _sklearn("linear_model", "pipeline", "preprocessing")
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=MAX_ITERATIONS)
    )
    model.fit(features.numpy(), labels.numpy())
    return _all_classes(model.predict_proba(test_features.numpy()), model.classes_, num_classes)


def knn_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, num_classes: int, seed: int
) -> Tensor:
    """Class scores by a weighted vote of cosine neighbours, shape ``(m, num_classes)``."""
    [neighbors] = _sklearn("neighbors")
    model = neighbors.KNeighborsClassifier(
        min(NUM_NEIGHBOURS, len(features)),
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    )
    model.fit(features.numpy(), labels.numpy())
    return _all_classes(model.predict_proba(test_features.numpy()), model.classes_, num_classes)


def adam_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, num_classes: int, seed: int
) -> Tensor:
    """Class scores by the linear readout of the paper's code, shape ``(m, num_classes)``."""
    generator = torch.Generator().manual_seed(seed)
    bound = features.shape[1] ** -0.5
    weight = torch.empty(num_classes, features.shape[1]).uniform_(
        -bound, bound, generator=generator
    )
    parameters = [weight.requires_grad_(), torch.zeros(num_classes).requires_grad_()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(ADAM_EPOCHS):
            order = torch.randperm(len(features), generator=generator)
            for start in range(0, len(order), ADAM_BATCH):
                batch = order[start : start + ADAM_BATCH]
                logits = torch.nn.functional.linear(features[batch], *parameters)
                loss = cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
    with torch.no_grad():
        return torch.nn.functional.linear(test_features, *parameters)


PROBES: dict[str, Callable[[Tensor, Tensor, Tensor, int, int], Tensor]] = {
    "logistic": logistic_probe,
    "adam": adam_probe,
    "knn": knn_probe,
}


def _all_classes(scores: NDArray[Any], classes: NDArray[Any], num_classes: int) -> Tensor:
    """Scores of classes that the training labels lack are 0."""
    full = np.zeros((len(scores), num_classes))
    full[:, classes] = scores
    return torch.from_numpy(full)


def _check(features: Tensor, labels: Tensor, side: str) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise DataError(
            f"expected {side} features (n, d) and labels (n,) with n >= 1, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ReadoutError(f"{bad} of {len(features)} {side} images have NaN or infinite features")
    missing = int((labels < 0).sum())
    if missing:
        raise DataError(
            f"{missing} of {len(labels)} {side} images have no label; "
            "a readout needs class folders or class indices"
        )


def _sklearn(*names: str) -> list[Any]:
    from importlib import import_module

    try:
        return [import_module(f"sklearn.{name}") for name in names]
    except ImportError as error:
        raise OptionError(
            "the readout needs scikit-learn: pip install 'alphareq-lightning[readout]'"
        ) from error
