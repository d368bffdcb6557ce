"""transformers, from tiny configurations: no weights, no network."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Layer

import oracles

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VISION = {**SIZE, "image_size": 32, "patch_size": 8}
BERT = {**SIZE, "vocab_size": 90, "max_position_embeddings": 40}
WAV2VEC2 = {
    **SIZE,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


class Runs(pl.LightningModule):
    """A module whose validation step gives each batch to the network by keywords."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def validation_step(self, batch, batch_idx):
        next(self.children())(**batch)


def sentences(n=96, length=12, shortest=12, seed=0):
    """Token ids and which of them count."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 90, (n, length), generator=generator)
    lengths = torch.randint(shortest, length + 1, (n, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def by_batch(columns, batch_size=40):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return DataLoader(rows, batch_size=batch_size)


def images(n=96):
    return {"pixel_values": torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def sounds(n=96, length=800):
    noise = torch.randn(n, length, generator=torch.Generator().manual_seed(0))
    return {"input_values": noise.cumsum(dim=1)}


def states(output):
    return output.last_hidden_state.mean(dim=1)


def itself(value):
    return value


@pytest.mark.parametrize(
    ("children", "data", "label", "features"),
    [
        (lambda: {"backbone": BertModel(BertConfig(**BERT))}, sentences, "backbone", states),
        (lambda: {"encoder": ViTModel(ViTConfig(**VISION))}, images, "encoder", states),
        (
            lambda: {"backbone": ViTMAEModel(ViTMAEConfig(**VISION, mask_ratio=0.0))},
            images,
            "backbone",
            states,
        ),
        (
            lambda: {
                "backbone": SwinModel(
                    SwinConfig(
                        image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 2]
                    )
                )
            },
            images,
            "backbone",
            states,
        ),
        (
            lambda: {"encoder": Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2))},
            sounds,
            "encoder",
            states,
        ),
        (
            lambda: {"model": ViTForImageClassification(ViTConfig(**VISION))},
            images,
            "model.classifier:input",
            itself,
        ),
        (
            lambda: {"model": BertForSequenceClassification(BertConfig(**BERT))},
            sentences,
            "model.classifier:input",
            itself,
        ),
    ],
    ids=["BERT", "ViT", "MAE", "Swin", "wav2vec2", "ViT classifier", "BERT classifier"],
)
def test_by_the_rule(conforms, children, data, label, features):
    conforms(Runs(**children()), by_batch(data()), label, features)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("length", [800, 2400])
def test_wav2vec2s_convolutions_over_time(conforms, norm, length):
    network = Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2, feat_extract_norm=norm))
    layer = "model.feature_extractor"
    conforms(
        Runs(model=network),
        by_batch(sounds(length=length)),
        layer,
        lambda x: x.mean(2),
        layer=layer,
    )


def test_every_layer_of_bert_by_name(conforms):
    for layer, features in {
        "model.embeddings": lambda x: x.mean(1),
        "model.encoder.layer.1": lambda x: (x if torch.is_tensor(x) else x[0]).mean(1),
        "model.pooler": itself,
    }.items():
        network = BertModel(BertConfig(**BERT))
        conforms(Runs(model=network), by_batch(sentences()), layer, features, layer=layer)


def test_a_callable_takes_the_pooled_output(conforms):
    def pooled(output):
        return output.pooler_output

    network = BertModel(BertConfig(**BERT))
    conforms(Runs(backbone=network), by_batch(sentences()), "backbone", pooled, pool=pooled)


def test_logits_are_no_features():
    network = ViTForImageClassification(ViTConfig(**VISION))
    text = (
        "'backbone' is a ImageClassifierOutput with logits .*name a layer inside it, or pass pool="
    )
    tap = FeatureTap(Layer("backbone", network, "output"))
    tap.is_open = True
    network(**images(4))
    with pytest.raises(FeatureTapError, match=text):
        raise FeatureTapError(tap.problem)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_padding_is_left_out(pool):
    columns = sentences(n=200, shortest=3)
    network = BertModel(BertConfig(**BERT)).eval()
    tap = FeatureTap(Layer("backbone", network, "output"), pool)
    tap.is_open = True
    kept = []
    with torch.no_grad():
        for batch in by_batch(columns):
            tap.mask = batch["attention_mask"]
            tokens = network(**batch).last_hidden_state.double().numpy()
            mask = batch["attention_mask"].numpy().astype(bool)
            if pool == "cls":
                kept += [row[0] for row in tokens]
            else:
                kept += [row[m].mean(axis=0) for row, m in zip(tokens, mask, strict=True)]
    assert tap.problem is None
    moments = tap.moments.compute()
    found = np.linalg.eigvalsh((moments.scatter / (moments.num_samples - 1)).numpy())[::-1]
    expected = oracles.eigenspectrum(np.stack(kept))
    np.testing.assert_allclose(found[:20], expected[:20], rtol=1e-5)
    alpha, _, _ = oracles.weighted_line(expected, 4, 12)
    assert oracles.weighted_line(found, 4, 12)[0] == pytest.approx(alpha, rel=2e-6)


def test_a_text_classifier_with_its_own_pooling(conforms):
    class Mean(nn.Module):
        def forward(self, output):
            return output.last_hidden_state.mean(dim=1)

    class Text(Runs):
        def validation_step(self, batch, batch_idx):
            self.head(self.pool(self.backbone(**batch)))

    module = Text(backbone=BertModel(BertConfig(**BERT)), pool=Mean(), head=nn.Linear(32, 2))
    conforms(module, by_batch(sentences()), "pool", itself, layer="pool")


@pytest.mark.parametrize("layer", ["**.layernorm_after", "**.layer*.?"])
def test_every_block_by_a_pattern(tmp_path, layer):
    """Where the blocks are differs between versions, so the pattern begins anywhere."""
    monitor = AlphaMonitor(layer, fit_range=(2, 9), figures=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[monitor],
        logger=False,
        enable_progress_bar=False,
    )
    batches = [{"pixel_values": torch.randn(20, 3, 32, 32)} for _ in range(3)]
    network = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    trainer.validate(Runs(backbone=network), DataLoader(batches, batch_size=None), verbose=False)
    first, second = monitor.history
    assert (first.num_samples, second.num_samples) == (60, 60)
    assert first.layer.replace("0", "1") == second.layer
    assert second.alpha != first.alpha
    keys = {"val_alpha", f"val_alpha_{second.layer.replace('.', '_')}"}
    assert keys <= set(trainer.callback_metrics)
