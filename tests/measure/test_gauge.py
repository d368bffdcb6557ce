"""α in any training loop: plain torch, Fabric, processes of their own."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from alphareq_lightning import AlphaMonitor, Gauge, GaugeOptions, OptionError
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.errors import FeatureTapError, NoFitWarning
from alphareq_lightning.functional import eigenspectrum, fit_power_law
from alphareq_lightning.measure import AllProcesses, profile_layers

import oracles
from ranks import spawn
from tiny import TinyModule, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::alphareq_lightning.errors.PoorFitWarning",
    "ignore::alphareq_lightning.errors.UndersampledWarning",
    "ignore:.*num_workers.*",
)
PAGE = Path(__file__).parents[2] / "docs" / "any_loop.md"
X = torch.tensor(oracles.planted_features(1.0, 600, 40))
OPTIONS = GaugeOptions(layer="0", fit_range=(3, 20), scores=("rankme", "selfcluster", "uniformity"))


def network():
    return nn.Sequential(nn.Identity(), nn.Linear(40, 3).double()).eval()


def seen_by(gauge, batches):
    with torch.no_grad():
        for batch in batches:
            with gauge.watching(batch):
                gauge.module(batch)
    return gauge.record()


def test_the_page_runs_and_rank_reads_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
    for name, layer, count in (("plain", "3:input", 3), ("fabric", "1", 2)):
        assert main(["rank", f"{name}.jsonl", "--json"]) == NO_CHOICE
        ranked = json.loads(capsys.readouterr().out)["records"]
        assert [row["layer"] for row in ranked] == [layer] * count
        assert all(math.isfinite(row["alpha"]) for row in ranked)
        assert sorted(row["epoch"] for row in ranked) == list(range(count))


def test_a_record_is_that_of_the_batches_since_the_one_before():
    with Gauge(OPTIONS, network()) as gauge:
        for part in (X[:300], X[300:]):
            [record] = seen_by(gauge, part.split(70))
            truth = fit_power_law(eigenspectrum(part), (3, 20)).alpha.item()
            assert record.alpha == pytest.approx(truth, abs=1e-9)
            assert (record.num_samples, record.num_images, record.problem) == (300, 300, None)
        assert len(gauge.module[0]._forward_hooks) == 1
    assert len(gauge.module[0]._forward_hooks) == 0


def test_what_is_not_watched_does_not_count():
    with Gauge(OPTIONS, network()) as gauge:
        gauge.module(X)
        [record] = seen_by(gauge, X[:200].split(50))
        assert record.num_samples == 200


class Loses:
    """Takes features as they are, and fails once."""

    calls = 0

    def __call__(self, features):
        self.calls += 1
        if self.calls == 2:
            raise ValueError("a batch was lost")
        return features


def test_a_lost_batch_leaves_no_alpha_wherever_it_was_lost(tmp_path):
    gauge = Gauge(GaugeOptions(layer="0", pool=Loses(), fit_range=(3, 20)), network())
    with pytest.warns(NoFitWarning, match="α of layer '0': a batch was lost"):
        records = seen_by(gauge, X.split(100))
    records += profile_layers(network(), X.split(100), layers="0", pool=Loses(), fit_range=(3, 20))
    monitor = AlphaMonitor(pool=Loses(), fit_range=(3, 20))
    trainer = make_trainer(tmp_path, monitor, max_epochs=1, num_sanity_val_steps=0)
    with pytest.warns(NoFitWarning, match="a batch was lost"):
        trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    records += monitor.history
    assert len(records) == 3
    for record in records:
        assert record.problem == "a batch was lost"
        assert math.isnan(record.alpha)
        assert math.isnan(record.scores["rankme"])
        assert record.fit_range is None


def test_a_layer_that_did_not_run_is_told_with_those_that_did():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(40, 30).double(), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    gauge = Gauge(GaugeOptions(layer="spare"), Spare())
    text = r"'spare' did not run .*layer= 'used' \(300, 30\); or run the part that holds it"
    with torch.no_grad(), gauge.watching(X[:300]):
        gauge.module(X[:300])
    with pytest.raises(FeatureTapError, match=text):
        gauge.check()
    with pytest.warns(NoFitWarning, match=text):
        [record] = gauge.record()
    assert math.isnan(record.alpha)


def test_padding_is_left_out_where_the_batch_says_so():
    model, tokens = network(), X.view(100, 6, 40).clone()
    mask = torch.ones(100, 6).long()
    mask[::2, 4:] = 0
    filled = torch.where(mask[..., None] == 1, tokens, 1e3)
    expected = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    truth = fit_power_law(eigenspectrum(expected), (3, 20)).alpha.item()
    with Gauge(GaugeOptions(layer="0", pool="mean_last", fit_range=(3, 20)), model) as gauge:
        with gauge.watching({"tokens": filled, "attention_mask": mask}):
            model(filled)
        [record] = gauge.record()
        assert record.alpha == pytest.approx(truth, abs=1e-9)


def measured_by_two(rank, world_size):
    model = network()
    with Gauge(OPTIONS, model, ranks=AllProcesses()) as gauge:
        mine = X[:400] if rank == 0 else X[400:]
        [record] = seen_by(gauge, mine.split(90))
        [alone] = profile_layers(model, [X], layers="0", fit_range=(3, 20), scores=OPTIONS.scores)
        assert record.alpha == pytest.approx(alone.alpha, abs=1e-9)
        assert record.scores == pytest.approx(alone.scores, rel=1e-3)
        assert (record.num_samples, record.num_images) == (600, 600)
        # A rank without a batch takes part.
        [record] = seen_by(gauge, [X] if rank == 0 else [])
        assert record.alpha == pytest.approx(alone.alpha, abs=1e-9)
        # What one rank lost, nobody has measured.
        gauge.start()
        if rank == 1:
            gauge.fail("the disk is gone")
        with pytest.warns(NoFitWarning) if rank == 0 else torch.no_grad():
            [record] = seen_by(gauge, mine.split(90))
        assert math.isnan(record.alpha)
        assert record.problem == "the disk is gone"


def test_two_processes_without_lightning():
    spawn(measured_by_two, 2)


def limited_over_two(rank, world_size):
    options = GaugeOptions(layer="0", fit_range=(3, 20), max_samples=301)
    with Gauge(options, network(), ranks=AllProcesses()) as gauge:
        [record] = seen_by(gauge, X.split(50))
    assert record.num_samples == 301


def test_a_limit_is_that_of_all_ranks():
    spawn(limited_over_two, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"take": "both"}, "take to be one of"),
        ({"max_samples": 0}, "max_samples >= 1"),
        ({"scores": "rank"}, "unknown scores"),
        ({"pool": "max"}, "pool to be one of"),
        ({"layer": ["a", "a"]}, "different names"),
    ],
)
def test_options_fail_at_once(options, text):
    with pytest.raises(OptionError, match=text):
        GaugeOptions(**options)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("on_validation_epoch_end", {}),
        ("on_train_epoch_end", {"loss": 1.0}),
        ("on_train_start", {"trainer": "fabric"}),
    ],
)
def test_a_fabric_loop_is_told_of_the_gauge(hook, arguments):
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[AlphaMonitor()])
    text = "AlphaMonitor needs a Lightning Trainer; in a loop of your own, as with Fabric, .*Gauge"
    with pytest.raises(OptionError, match=text):
        fabric.call(hook, **arguments)
    with pytest.raises(OptionError, match=text):
        fabric.setup(nn.Linear(2, 2))
