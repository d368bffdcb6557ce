import pytest
import torch
from torch import nn

from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.pooling import pool_features


def opened(module, take="output", pool="mean"):
    tap = FeatureTap(Layer("net", module, take), pool)
    tap.is_open = True
    return tap


def test_takes_features_only_while_open():
    module = nn.Linear(4, 3)
    tap = opened(module)
    module(torch.randn(5, 4))
    tap.is_open = False
    module(torch.randn(5, 4))
    assert tap.moments.compute().num_samples == 5
    tap.remove()
    tap.is_open = True
    module(torch.randn(5, 4))
    assert tap.num_samples == 5
    assert not module._forward_hooks


def test_output_and_input_are_what_they_say():
    module = nn.Linear(4, 3)
    x = torch.randn(50, 4)
    for take, expected in (("output", module(x)), ("input", x)):
        tap = opened(module, take)
        module(x)
        torch.testing.assert_close(
            tap.moments.compute().mean, expected.double().mean(0), rtol=1e-6, atol=1e-7
        )
        tap.remove()


def test_input_by_keyword():
    module = nn.Linear(4, 3)
    tap = opened(module, "input")
    module(input=torch.ones(2, 4))
    assert tap.moments.num_features == 4


def test_stops_at_max_samples():
    module = nn.Identity()
    tap = opened(module)
    tap.start(max_samples=7)
    for _ in range(4):
        module(torch.randn(3, 2))
    assert tap.is_full
    assert tap.moments.compute().num_samples == 7


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("module", "x", "text"),
    [
        (
            Pair(),
            torch.ones(2, 3),
            r"layer .net. is a tuple with .0. .2, 3., .1. .2, 3.",
        ),
        (nn.Identity(), torch.ones(2, 3).long(), "got torch.int64"),
        (nn.Identity(), torch.ones(2, 3, 4).long(), "got torch.int64"),
        (nn.Identity(), torch.tensor(1.0), "got a scalar"),
    ],
)
def test_keeps_the_problem_and_lets_the_forward_pass(module, x, text):
    tap = opened(module)
    assert module(x) is not None
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(tap.problem)


def test_autograd_graph_is_not_kept():
    module = nn.Linear(4, 3)
    tap = opened(module)
    module(torch.randn(5, 4)).sum().backward()
    assert not tap.moments.packed.requires_grad


@pytest.mark.parametrize(
    ("shape", "pool", "expected"),
    [
        ((6,), "mean", (6, 1)),
        ((6, 4), "mean", (6, 4)),
        ((6, 5, 4), "mean", (6, 4)),
        ((6, 5, 4), "cls", (6, 4)),
        ((6, 5, 4), "flatten", (6, 20)),
        ((6, 4, 3, 3), "mean", (6, 4)),
        ((6, 4, 3, 3), "flatten", (6, 36)),
        ((6, 4, 2, 3, 3), "mean", (6, 4)),
        ((0, 4, 3, 3), "mean", (0, 4)),
    ],
)
def test_pooling_shapes(shape, pool, expected):
    x = torch.randn(shape)
    for layout in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
        assert pool_features(layout, pool).shape == expected


def test_pooling_values():
    tokens = torch.randn(3, 5, 4)
    torch.testing.assert_close(pool_features(tokens), tokens.mean(1))
    torch.testing.assert_close(pool_features(tokens, "cls"), tokens[:, 0])
    maps = torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(pool_features(maps), maps.mean((2, 3)))
    assert pool_features(maps.bfloat16()).dtype == torch.float32


def test_cls_needs_tokens():
    with pytest.raises(FeatureTapError, match=r"needs tokens.*\(3, 4, 2, 2\)"):
        pool_features(torch.ones(3, 4, 2, 2), "cls")
