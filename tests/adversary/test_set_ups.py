"""Own images in set-ups that others write: the training must not know of them.

Each set-up trains twice from one seed, with the monitor and without, and everything that a training
leaves behind is compared to the last bit: weights, buffers, modes, plain attributes, optimizer,
random states, what was logged, and what the data sets have handed out.
"""

import random

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset

from alphareq_lightning import AlphaMonitor, OptionError
from alphareq_lightning.errors import FeatureTapError

from tiny import TinyModule, images, make_trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.adversary("set-ups of trainings"),
    pytest.mark.filterwarnings(
        "ignore::alphareq_lightning.errors.AlphaReQWarning", "ignore:.*deprecated.*"
    ),
]


# -- modules ---------------------------------------------------------------------------------------


class Lora(nn.Linear):
    """Merges its adapter into the weight in eval mode, as loralib does."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down = nn.Parameter(torch.randn(2, sizes[0]))
        self.up = nn.Parameter(torch.randn(sizes[1], 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.up @ self.down) * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.down.T @ self.up.T)


class Average(nn.Module):
    """Keeps a running average and a count of everything it sees, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(48))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)  # another tensor every time
        return x - self.mean + 0.001 * self.calls


class Queue(nn.Module):
    """A queue of features that is written in place, with a pointer, as MoCo's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(512, 48))
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        at = int(self.at)
        self.queue[at : at + len(x)] = x.detach()[: 512 - at]
        self.at[0] = (at + len(x)) % 512
        return x + 0.01 * self.queue.mean(dim=0)


class AlwaysDrops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.2, training=True)


class Draws(nn.Module):
    """Noise from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return x + 0.1 * torch.randn(x.shape, generator=self.generator)


class Remembers(nn.Module):
    """Appends to a list what it has seen, and reads it."""

    def __init__(self):
        super().__init__()
        self.seen, self.best = [], {}

    def forward(self, x):
        self.seen.append(x.detach().mean())
        self.best["mean"] = max(float(self.seen[-1]), self.best.get("mean", 0.0))
        return x + 0.01 * len(self.seen) + 0.01 * self.best["mean"]


class Loose(nn.Module):
    """Keeps tensors, an array and generators as plain attributes, rebound and written in place."""

    def __init__(self):
        super().__init__()
        self.mean, self.spread = torch.zeros(48), torch.ones(48)
        self.counts, self.rng = np.zeros(3), np.random.default_rng(1)
        self.seen = []

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)
        self.spread.mul_(0.9).add_(0.1 * x.detach().std(dim=0))
        self.counts[0] += self.rng.uniform()
        self.seen = [*self.seen, float(self.mean[0])]
        return (x - self.mean) / self.spread + 0.001 * float(self.counts[0]) * len(self.seen)


class MadeInForward(nn.Module):
    """Makes what it needs when it first runs."""

    def forward(self, x):
        if not hasattr(self, "shift"):
            self.shift = x.detach().mean(dim=0)
            self.register_buffer("scale", x.detach().std(dim=0))
        self.calls = getattr(self, "calls", 0) + 1
        return (x - self.shift) / self.scale + 0.001 * self.calls


class Measures(TinyModule):
    """Has a metric of torchmetrics that is updated in forward and logged at the end."""

    def __init__(self):
        super().__init__()
        self.spread = torchmetrics.MeanMetric()

    def forward(self, x):
        features = self.backbone(x)
        self.spread.update(features.detach().std())
        return self.head(features)

    def on_train_epoch_end(self):
        self.log("spread", self.spread.compute())
        self.spread.reset()


class Expanded(nn.Module):
    """A buffer that repeats its numbers, before one that is written to."""

    def __init__(self):
        super().__init__()
        self.register_buffer("position", torch.randn(48).expand(4, 48))
        self.norm = AdaptiveNorm(48)
        self.log_dict = {}  # a name that Lightning has, too

    def forward(self, x):
        return self.norm(x + self.position[0])


class AdaptiveNorm(nn.BatchNorm1d):
    """Goes on adapting in eval mode."""

    def train(self, mode=True):
        return super().train(True)


class FrozenNorm(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class Adapter(nn.Module):
    """Merges into the layer that it wraps, and notes that in a place of its own."""

    def __init__(self):
        super().__init__()
        self.base, self.delta = nn.Linear(48, 48), nn.Parameter(0.1 * torch.randn(48, 48))
        self.state = {"merged": False}

    def train(self, mode=True):
        super().train(mode)
        if mode == self.state["merged"]:
            self.base.weight.data += self.delta.data * (-1 if mode else 1)
            self.state["merged"] = not mode
        return self

    def forward(self, x):
        return self.base(x) + (0 if self.state["merged"] else x @ self.delta.T)


class Fuses(nn.Module):
    """Runs one layer for two in eval mode, as RepVGG does, and builds it there."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(48, 48) for _ in range(2))
        self.fused = None

    def train(self, mode=True):
        super().train(mode)
        self.fused = None
        if not mode:
            self.fused = nn.Linear(48, 48)
            with torch.no_grad():
                for name in ("weight", "bias"):
                    first, second = (getattr(branch, name) for branch in self.branches)
                    getattr(self.fused, name).copy_(first + second)
        return self

    def forward(self, x):
        return self.fused(x) if self.fused else self.branches[0](x) + self.branches[1](x)


def ending_in(*layers):
    class Ends(TinyModule):
        def __init__(self):
            super().__init__()
            self.backbone.extend(layer() for layer in layers)

    return Ends


class Quantized(TinyModule):
    """Observers write ranges that they resize, and switches, in every forward pass."""

    def __init__(self):
        super().__init__()
        self.fake = torch.ao.quantization.FakeQuantize(
            observer=torch.ao.quantization.MovingAveragePerChannelMinMaxObserver,
            quant_min=0,
            quant_max=255,
            ch_axis=1,
        )

    def forward(self, x):
        return self.head(self.fake(self.backbone(x)))


class LogsInForward(TinyModule):
    def forward(self, x):
        logits = super().forward(x)
        self.log("spread", logits.std(), on_epoch=True, on_step=False)
        self.log_dict({"top": logits.max()}, on_epoch=True, on_step=False)
        self.log("now", logits.mean(), on_step=True)  # which epoch ends do not allow
        return logits


class Spectral(TinyModule):
    def __init__(self):
        super().__init__()
        self.head = nn.utils.parametrizations.spectral_norm(self.head)


class PartlyFrozen(TinyModule):
    def on_train_epoch_start(self):
        self.backbone[2].eval()


class AugmentsOnDevice(TinyModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            return [batch[0] + 0.1 * torch.randn_like(batch[0]), *batch[1:]]
        return batch


MODULES = {
    "plain": TinyModule,
    "lora": ending_in(lambda: Lora(48, 48)),
    "frozen lora": ending_in(lambda: Lora(48, 48).eval()),
    "adapter": ending_in(Adapter),
    "fuses": ending_in(Fuses),
    "average": ending_in(Average),
    "queue": ending_in(Queue),
    "remembers": ending_in(Remembers),
    "loose": ending_in(Loose),
    "made in forward": ending_in(MadeInForward),
    "expanded": ending_in(Expanded),
    "metric": Measures,
    "always drops": ending_in(AlwaysDrops),
    "own generator": ending_in(Draws),
    "adaptive norm": ending_in(lambda: AdaptiveNorm(48)),
    "frozen norm": ending_in(lambda: FrozenNorm(48)),
    "fake quantize": Quantized,
    "logs in forward": LogsInForward,
    "spectral norm": Spectral,
    "partly frozen": PartlyFrozen,
    "augments on device": AugmentsOnDevice,
}


# -- data ------------------------------------------------------------------------------------------


class Labelled(Dataset):
    def __init__(self):
        self.images = images(160)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 5


class DrawsWithTorch(Labelled):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn(image.shape, generator=self.generator), label


class DrawsWithNumpy(Labelled):
    def __init__(self):
        super().__init__()
        self.rng, self.dice = np.random.default_rng(1), random.Random(1)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image * float(self.rng.uniform() + self.dice.random()), label


class Counts(Labelled):
    calls = 0

    def __getitem__(self, index):
        self.calls += 1
        image, label = super().__getitem__(index)
        return image * (1 + self.calls / 1000), label


class Nested(Dataset):
    """A data set in a data set, as transforms and concatenations are written."""

    def __init__(self):
        self.inner = [DrawsWithTorch(), Counts()]

    def __len__(self):
        return 160

    def __getitem__(self, index):
        return self.inner[index % 2][index]


class Noise:
    """A transform with a generator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(4)

    def __call__(self, image):
        return image * float(self.rng.uniform(0.5, 1.5))


class Transforms(Labelled):
    def __init__(self):
        super().__init__()
        self.transform = [Noise()]

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return self.transform[0](image), label


class CountsInATensor(Labelled):
    def __init__(self):
        super().__init__()
        self.calls, self.places, self.twin = torch.zeros(1), {"at": 0}, self

    def __getitem__(self, index):
        self.calls += 1
        self.places["at"] += 1
        image, label = super().__getitem__(index)
        return image * (1 + float(self.calls) / 1000 + self.places["at"] / 1000), label


class OwnBatches:
    """A batch sampler that is no class of torch, with an order that goes on."""

    def __init__(self):
        self.rng = np.random.default_rng(5)

    def __len__(self):
        return 5

    def __iter__(self):
        return iter(self.rng.permutation(160).reshape(5, 32).tolist())


class Stream(IterableDataset):
    """Goes on where it stopped."""

    def __init__(self):
        self.data, self.at = Labelled(), 0

    def __iter__(self):
        for _ in range(160):
            self.at += 1
            yield self.data[(7 * self.at) % 160]


class OwnOrder(Sampler):
    """An order of its own that goes on from epoch to epoch."""

    def __init__(self):
        self.rng = np.random.default_rng(2)

    def __len__(self):
        return 160

    def __iter__(self):
        return iter(self.rng.permutation(160).tolist())


def subset():
    return Subset(Counts(), range(160))


DATA = {
    "torch generator": DrawsWithTorch,
    "numpy and random generators": DrawsWithNumpy,
    "counter": Counts,
    "nested": Nested,
    "transform": Transforms,
    "tensor, dict and itself": CountsInATensor,
    "subset": subset,
    "stream": Stream,
}


def seed():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def state_of(dataset):
    """Generators, counters and positions, wherever in a data set."""
    if isinstance(dataset, list):
        return [state_of(item) for item in dataset]
    if not hasattr(dataset, "__dict__") or isinstance(dataset, torch.Tensor):
        return None
    found = []
    for name, value in sorted(vars(dataset).items()):
        if value is dataset:
            continue
        if isinstance(value, torch.Generator):
            found.append((name, value.get_state().tolist()))
        elif isinstance(value, np.random.Generator):
            found.append((name, str(value.bit_generator.state)))
        elif isinstance(value, random.Random):
            found.append((name, value.getstate()))
        elif isinstance(value, int | dict):
            found.append((name, str(value)))
        elif isinstance(value, torch.Tensor) and value.numel() < 9:
            found.append((name, value.tolist()))
        else:
            found.append((name, state_of(value)))
    return found


def train(tmp_path, make_module, monitor, train_loader, val_loader=None, **options):
    seed()
    module = make_module()
    if val_loader is None:
        module.validation_step = None
    callbacks = [] if monitor is None else [monitor]
    stop = EarlyStopping("train_loss", patience=1, min_delta=0.01, check_on_train_epoch_end=True)
    trainer = make_trainer(tmp_path, *callbacks, stop, **{"max_epochs": 3, **options})
    trainer.fit(module, train_loader, val_loader)
    plain = [
        {n: v for n, v in vars(m).items() if isinstance(v, int | float | str)}
        for m in module.modules()
    ]
    generators = [v for m in module.modules() for v in vars(m).values()]
    numbers = {n: v for n, v in trainer.callback_metrics.items() if "alpha" not in n}
    numbers = {n: v.item() for n, v in numbers.items() if "rankme" not in n}
    random_states = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    return {
        "weights": list(tensors(module.state_dict())),
        "optimizer": list(tensors(trainer.optimizers[0].state_dict())),
        "generators": [g.get_state() for g in generators if isinstance(g, torch.Generator)],
        "plain": plain,
        "logged": numbers,
        "epochs": (trainer.current_epoch, trainer.global_step),
        "random": random_states,
        "data": state_of(train_loader.dataset),
        "order": [state_of(train_loader.sampler), state_of(train_loader.batch_sampler)],
    }


def assert_same(measured, alone):
    for name, expected in alone.items():
        found = measured[name]
        if expected and isinstance(expected[0] if isinstance(expected, list) else 0, torch.Tensor):
            assert len(found) == len(expected), name
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name
        else:
            assert found == expected, name


LOOPS = {
    "no validation loop": {},
    "at steps": {"at_steps": [0, 3, 4]},
    "validation loop": {},
    "no sanity check": {"num_sanity_val_steps": 0},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", MODULES)
def test_own_images_leave_the_module_alone(tmp_path, name, loop):
    held_out = DataLoader(images(100, seed=3), batch_size=50, shuffle=True)
    options = dict(LOOPS[loop])
    steps = {"at_steps": options.pop("at_steps", None)}
    ends = []
    for monitor in (AlphaMonitor("backbone", dataloader=held_out, **steps), None):
        train_loader = DataLoader(Labelled(), batch_size=32, shuffle=True)
        val_loader = DataLoader(Labelled(), batch_size=80) if "validation" in loop else None
        val_loader = None if loop == "no validation loop" else val_loader
        ends.append(train(tmp_path, MODULES[name], monitor, train_loader, val_loader, **options))
        if monitor is not None:
            assert len(monitor.history) >= ends[0]["epochs"][0]
            assert {r.problem for r in monitor.history} == {None}
    assert_same(*ends)


@pytest.mark.parametrize("loop", ["no validation loop", "at steps"])
@pytest.mark.parametrize("shared", ["dataset", "loader"])
@pytest.mark.parametrize("name", DATA)
def test_own_images_from_the_data_of_the_training(tmp_path, name, shared, loop):
    ends = []
    for own in (True, False):
        dataset = DATA[name]()
        train_loader = DataLoader(dataset, batch_size=32)
        monitor = None
        if own:
            held_out = train_loader if shared == "loader" else DataLoader(dataset, batch_size=50)
            monitor = AlphaMonitor(dataloader=held_out, max_samples=100, **LOOPS[loop])
        ends.append(train(tmp_path, TinyModule, monitor, train_loader))
        if own:
            # Every pass reads the same images.
            assert {r.num_samples for r in monitor.history} == {100}
    assert_same(*ends)


@pytest.mark.parametrize("order", ["sampler", "batch sampler", "numpy's own"])
def test_a_sampler_of_the_training_stays_where_it_is(tmp_path, order):
    class Numpy(Sampler):
        def __iter__(self):
            return iter(np.random.permutation(160).tolist())

        def __len__(self):
            return 160

    makes = {
        "sampler": lambda: {"batch_size": 32, "sampler": OwnOrder()},
        "batch sampler": lambda: {"batch_sampler": OwnBatches()},
        "numpy's own": lambda: {"batch_size": 32, "sampler": Numpy()},
    }
    ends = []
    for own in (True, False):
        train_loader = DataLoader(Labelled(), **makes[order]())
        monitor = AlphaMonitor(dataloader=train_loader, max_samples=100) if own else None
        ends.append(train(tmp_path, TinyModule, monitor, train_loader))
    assert_same(*ends)


def test_every_pass_over_a_stream_reads_the_same_images(tmp_path):
    class Still(TinyModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_train_epoch_start(self):
            self.backbone[2].eval()

    monitor = AlphaMonitor(dataloader=DataLoader(Stream(), batch_size=50), max_samples=100)
    loader = DataLoader(Labelled(), batch_size=32)
    make_trainer(tmp_path, monitor, max_epochs=2).fit(Still(), loader, loader)
    untrained, first, second = monitor.history
    assert untrained.eigenvalues == first.eigenvalues == second.eigenvalues


@pytest.mark.parametrize("workers", [0, 1])
def test_every_pass_reads_the_same_images_whatever_their_order_is_drawn_from(tmp_path, workers):
    class Still(TinyModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_train_epoch_start(self):
            self.backbone[2].eval()
            np.random.rand(3)

    for sampler in (OwnOrder(), RandomOrder()):
        own = DataLoader(Labelled(), batch_size=50, sampler=sampler, num_workers=workers)
        monitor = AlphaMonitor(dataloader=own, max_samples=100)
        make_trainer(tmp_path, monitor).fit(Still(), DataLoader(Labelled(), batch_size=32))
        untrained, first, second = monitor.history
        assert untrained.eigenvalues == first.eigenvalues == second.eigenvalues


class RandomOrder(OwnOrder):
    def __iter__(self):
        return iter(np.random.permutation(160).tolist())


class OneShot(IterableDataset):
    def __init__(self):
        data = Labelled()
        self.rows = (data[i % 160] for i in range(10_000))

    def __iter__(self):
        return self.rows


class Moves:
    """A loader of somebody's own, which goes on where it stopped."""

    def __init__(self):
        self.at = 0

    def __len__(self):
        return 5

    def __iter__(self):
        for _ in range(5):
            self.at += 1
            yield images(32, self.at), torch.arange(32) % 5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DataLoader(OneShot(), batch_size=32), "whose 'rows' can be read only once"),
        (Moves, "from the Moves that the training reads"),
    ],
)
def test_data_that_cannot_be_kept_apart_is_an_error_before_training(tmp_path, make, text):
    class Untrained(TinyModule):
        def training_step(self, batch, batch_idx):
            pytest.fail("training had begun")

    loader = make()
    monitor = AlphaMonitor(dataloader=loader, max_samples=100)
    with pytest.raises(OptionError, match=text):
        make_trainer(tmp_path, monitor, limit_train_batches=3).fit(Untrained(), loader)


class Renormalises(TinyModule):
    def forward(self, x):
        with torch.no_grad():
            self.head.weight.copy_(nn.functional.normalize(self.head.weight))
        return super().forward(x)


class LazyHead(TinyModule):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Renormalises, "the parameter 'head.weight' is written to by a forward pass in eval mode"),
        (LazyHead, "the parameter 'head.weight' is lazy and would be made by the pass"),
    ],
)
def test_modules_that_cannot_be_put_back_are_an_error_before_training(tmp_path, make, text):
    class Untrained(make):
        def training_step(self, batch, batch_idx):
            pytest.fail("training had begun")

    monitor = AlphaMonitor("backbone", dataloader=DataLoader(images(100), batch_size=50))
    trainer = make_trainer(tmp_path, monitor)
    with pytest.raises(FeatureTapError, match=text):
        trainer.fit(Untrained(), DataLoader(Labelled(), batch_size=32))


def test_a_stream_without_end_needs_a_number(tmp_path):
    class Endless(IterableDataset):
        read = 0

        def __iter__(self):
            while True:
                Endless.read += 1
                if Endless.read > 100:
                    raise OSError("read past what was asked for")
                yield images(1, Endless.read)[0]

    loader = DataLoader(Endless(), batch_size=50)
    fit = (TinyModule(), DataLoader(Labelled(), batch_size=32))
    with pytest.raises(OptionError, match="has no length and may never end; say with max_samples="):
        make_trainer(tmp_path, AlphaMonitor(dataloader=loader)).fit(*fit)
    assert Endless.read == 0
    monitor = AlphaMonitor(dataloader=loader, max_samples=50)
    make_trainer(tmp_path, monitor, max_epochs=1).fit(*fit)  # two passes of a batch each
    assert (monitor.history[0].num_samples, Endless.read) == (50, 100)
