"""From what a layer gives to features: odd outputs, masks, sizes that change, callables."""

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.errors import FeatureTapError, OptionError, SpectrumError
from alphareq_lightning.measure import state_size
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layer_features import LayerFeatures
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.pooling import pool_features, pool_name

TOKENS = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(0))
POOLED = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
TRANSFORMER = OrderedDict(last_hidden_state=TOKENS, pooler_output=POOLED)  # as a ModelOutput


@dataclasses.dataclass
class Encoded:
    encoded: torch.Tensor
    mask: torch.Tensor
    grid_size: tuple


@dataclasses.dataclass
class Trained:
    loss: torch.Tensor
    embedding: torch.Tensor
    prediction: torch.Tensor | None = None


class Pair(NamedTuple):
    maps: torch.Tensor
    sizes: torch.Tensor


class Gives(nn.Module):
    """A layer of known width whose output is what the test says."""

    def __init__(self, output):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.output = output

    def forward(self, x):
        return self.output


def tapped(output, pool="mean", mask=None):
    module = Gives(output)
    tap = FeatureTap(Layer("net", module, "output"), pool)
    tap.is_open, tap.mask = True, mask
    module(torch.zeros(8, 1))
    return tap


@pytest.mark.parametrize(
    ("output", "features"),
    [
        (TRANSFORMER, TOKENS.mean(1)),
        ({"logits": POOLED, "hidden_states": (TOKENS, TOKENS)}, None),
        (Encoded(TOKENS, torch.ones(8, 7), (1, 5)), TOKENS.mean(1)),
        (Trained(torch.zeros(()), POOLED, POOLED[:, :4]), POOLED),
        ({"pooled": POOLED, "label": torch.zeros(8)}, POOLED),
        ({"a": POOLED, "b": POOLED}, None),
        (OrderedDict(out=POOLED, ids=torch.zeros(8, 3).long()), POOLED),
        (Pair(POOLED, torch.ones(8)), POOLED),
        ((TOKENS,), TOKENS.mean(1)),
        ((TOKENS, None), TOKENS.mean(1)),
        ([TOKENS, TOKENS], None),
        (None, None),
        ("text", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_taken_from_an_output_that_is_no_tensor(output, features):
    tap = tapped(output)
    if features is None:
        name = "nothing" if output is None else type(output).__name__
        with pytest.raises(AssertionError, match=f"layer 'net' is .*{name}.*pool= a call"):
            raise AssertionError(tap.problem)
    else:
        assert tap.problem is None
        torch.testing.assert_close(tap.moments.compute().mean, features.double().mean(0))


def pooler_output(output):
    return output["pooler_output"]


class FromLast:
    def __call__(self, tokens):
        return tokens[:, -1]


def test_a_callable_gets_what_the_layer_gives():
    tap = tapped(TRANSFORMER, pooler_output)
    torch.testing.assert_close(tap.moments.compute().mean, POOLED.double().mean(0))
    tap = tapped(TOKENS, FromLast())
    torch.testing.assert_close(tap.moments.compute().mean, TOKENS[:, -1].double().mean(0))
    assert [pool_name(p) for p in ("mean", pooler_output, FromLast())] == [
        "mean",
        "pooler_output",
        "FromLast",
    ]
    for wrong, came in ((lambda x: x, r"\(8, 5, 16\)"), (lambda x: x.tolist(), "list")):
        with pytest.raises(AssertionError, match=rf"\(n, d\) from pool=.*lambda.*, got {came}"):
            raise AssertionError(tapped(TOKENS, wrong).problem)


def test_a_pool_that_does_not_exist():
    with pytest.raises(OptionError, match="pool to be one of .*'mean_last'.*callable, got 'max'"):
        AlphaMonitor(pool="max")
    assert AlphaMonitor(pool=pooler_output).pool is pooler_output
    assert AlphaMonitor(pool=pooler_output).state_key == AlphaMonitor().state_key


def padded(value, mask):
    return [tokens[keep.bool()].mean(0) for tokens, keep in zip(value, mask, strict=True)]


MASK = (torch.arange(5) < torch.tensor([5, 1, 2, 3, 4, 5, 2, 1])[:, None]).long()


@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.float()], ids=["int", "bool", "float"])
def test_padding_is_left_out_of_the_mean(mask):
    expected = torch.stack(padded(TOKENS, MASK))
    value = TOKENS.masked_fill(MASK[..., None] == 0, float("nan"))  # whatever stands there
    torch.testing.assert_close(pool_features(value, mask=mask), expected)
    torch.testing.assert_close(pool_features(value.mT, "mean_first", mask), expected)
    tap = tapped(value, mask=mask)
    torch.testing.assert_close(tap.moments.compute().mean, expected.double().mean(0))
    assert tap.pooling.unmasked_lengths == set()
    assert pool_features(value.bfloat16(), mask=mask).dtype == torch.float32


def test_a_mask_that_says_nothing():
    torch.testing.assert_close(pool_features(TOKENS, mask=torch.ones(8, 80)), TOKENS.mean(1))
    torch.testing.assert_close(pool_features(POOLED, mask=MASK), POOLED)
    torch.testing.assert_close(pool_features(TOKENS, "cls", MASK), TOKENS[:, 0])


@pytest.mark.parametrize(
    ("pool", "mask", "text"),
    [
        ("mean", torch.zeros(8, 80), r"mask of shape \(8, 5\) for the tokens .*, got \(8, 80\)"),
        ("mean", torch.zeros(4, 5), r"mask of shape \(8, 5\) for the tokens .*, got \(4, 5\)"),
        ("mean", MASK * (torch.arange(8) > 2)[:, None], "no token in 3 of 8 samples"),
        ("cls", MASK.flip(1), "first token, which is padding in 6 of 8 samples"),
    ],
)
def test_masks_that_do_not_fit(pool, mask, text):
    with pytest.raises(FeatureTapError, match=text):
        pool_features(TOKENS, pool, mask)


def test_lengths_without_a_mask_are_known():
    tap = tapped(TOKENS)
    assert tap.pooling.unmasked_lengths == {5}
    tap.layer.module.output = TOKENS[:, :3]
    tap.layer.module(torch.zeros(1))
    assert tap.pooling.unmasked_lengths == {3, 5}
    tap.start()
    assert tap.pooling.unmasked_lengths == set()


def test_project_refuses_samples_of_another_size():
    tap = tapped(torch.randn(8, 16, 20, 20), "project")
    tap.layer.module.output = torch.randn(8, 16, 24, 24)
    tap.layer.module(torch.zeros(1))
    with pytest.raises(AssertionError, match=r"of 6400 .*\(8, 16, 24, 24\); pool='project'"):
        raise AssertionError(tap.problem)
    features = LayerFeatures(nn.Sequential(nn.Conv2d(3, 16, 3)), "0", "project")
    features(torch.randn(2, 3, 22, 22))
    with pytest.raises(SpectrumError, match=r"samples of 6400 values"):
        features(torch.randn(2, 3, 26, 26))


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 3)

    def forward(self, images):
        return self.backbone(input=images)


def test_layer_features_of_keyword_inputs():
    x = torch.randn(5, 4)
    assert torch.equal(LayerFeatures(ByKeyword(), "backbone:input")(x), x)
    with pytest.raises(FeatureTapError, match="layer '1' did not run"):
        LayerFeatures(nn.ModuleList([nn.Linear(4, 3), nn.ReLU()]), "1", run=nn.Identity())(x)


def test_a_state_that_cannot_fit_is_refused_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(state_size, "free_bytes", lambda device: 16_000_000_000)
    tap = tapped(torch.randn(2, 65_536), "flatten")
    text = r"layer 'net' is 65,536 wide: .* 34.4 GB, .* cpu has 16.0 GB free; .*pool='project'"
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(tap.problem)
    assert tap.moments.num_features == 0
    assert tapped(torch.randn(2, 65_536), "project").problem is None


def test_free_memory_is_a_number_where_it_is_known():
    free = state_size.free_bytes(torch.device("cpu"))
    assert free is None or free > 1e6
    assert state_size.free_bytes(torch.device("meta")) is None
