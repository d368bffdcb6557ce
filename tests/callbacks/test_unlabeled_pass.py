import pytest
import torch

from alphareq_lightning.callbacks.unlabeled_pass import evaluating, first_tensor
from alphareq_lightning.errors import FeatureTapError

from tiny import TinyModule


def test_modes_are_restored_one_by_one():
    module = TinyModule().train()
    module.backbone[2].eval()  # a frozen BatchNorm
    seen = []

    def look_and_leave():
        with evaluating(module):
            seen.extend(m.training for m in module.modules())
            raise RuntimeError("out")

    with pytest.raises(RuntimeError, match="out"):
        look_and_leave()
    assert not any(seen)
    assert [m.training for m in module.backbone] == [True, True, False, True, True, True]


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2),
        (torch.ones(2), torch.zeros(2)),
        ["name", [torch.ones(2), 3]],
        {"id": 5, "views": (torch.ones(2), torch.zeros(2))},
    ],
)
def test_images_are_the_first_tensor(batch):
    assert torch.equal(first_tensor(batch), torch.ones(2))


@pytest.mark.parametrize("batch", [None, "text", [], {"a": 1}])
def test_no_tensor(batch):
    with pytest.raises(FeatureTapError, match=f"holds no tensor, it is a {type(batch).__name__}"):
        first_tensor(batch)
