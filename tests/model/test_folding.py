"""Folding of batch norms, in every backbone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fcn_edge.model.fcn import make_model, model_names  # noqa: E402
from fcn_edge.model.folding import conv_norm_pairs, folded  # noqa: E402

BACKBONES = sorted({name.split("-", 1)[1] for name in model_names()})


@pytest.mark.parametrize("name", BACKBONES)
def test_batch_norms_fold_in_every_backbone(name) -> None:
    with torch.device("meta"):  # shapes without values: VGG alone would be half a gigabyte
        backbone = make_model(f"fcn16s-{name}", 3).backbone.eval()
    pairs = conv_norm_pairs(backbone)
    graph = folded(backbone)
    assert "BatchNorm2d" not in {type(module).__name__ for module in graph.modules()}
    before = {path for path, module in backbone.named_modules() if isinstance(module, torch.nn.Conv2d)}
    after = {path for path, module in graph.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert after == before
    norms = {path for path, module in backbone.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert {norm for _, norm in pairs} == norms
    assert {conv for conv, _ in pairs} <= before


@pytest.mark.parametrize("name", ["fcn4s-edge-n", "fcn4s-edge-n-fpn", "fcn8s-efficientnet-lite0-fpn"])
def test_a_folded_backbone_gives_the_same_features(name, lively_model) -> None:
    model = lively_model(name, 3).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, got = model.backbone(image), folded(model.backbone)(image)
    for stride, maps in expected.items():
        torch.testing.assert_close(got[stride], maps, rtol=1e-4, atol=1e-4)
