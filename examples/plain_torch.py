"""A loop without Lightning: ``python examples/plain_torch.py``, then ``alphareq rank``."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from alphareq_lightning import Gauge, GaugeOptions, append_record, verdict


def main() -> None:
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32)
    labels = torch.tensor(load_digits().target)
    train, held_out = images[:1200], images[1200:]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    records = []

    with Gauge(GaugeOptions(layer="2"), network) as gauge:
        for step in range(201):
            if step in (0, 10, 20, 40, 80, 120, 160, 200):
                network.eval()
                with torch.no_grad(), gauge.watching(held_out):
                    network(held_out)
                records += gauge.record(epoch=0, global_step=step, run="plain")
                append_record("plain_torch.jsonl", records[-1])
                network.train()
            batch = torch.randint(len(train), (100,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(train[batch]), labels[batch]).backward()
            optimizer.step()

    print(*(f"step {r.global_step}: α = {r.alpha:.3f}, R² = {r.r2:.3f}" for r in records), sep="\n")
    print(verdict(records).advice)


if __name__ == "__main__":
    main()
