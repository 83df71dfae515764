"""The top-down pathway: fine features hear of coarse ones, and a backbone's weights fit below it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from fcn_edge.errors import UsageError  # noqa: E402
from fcn_edge.model.fcn import count_gmacs, make_model  # noqa: E402
from fcn_edge.model.pyramid_pooling import WINDOWS, PyramidPooling  # noqa: E402
from fcn_edge.model.top_down import WIDTHS  # noqa: E402
from fcn_edge.training.config import TrainConfig  # noqa: E402
from fcn_edge.training.schedule import freeze, make_optimizer  # noqa: E402

NAME = "fcn4s-edge-n-fpn"


def test_it_ends_at_the_finest_stride_of_the_head() -> None:
    for head, strides in {"16s": (32, 16), "8s": (32, 16, 8), "4s": (32, 16, 8, 4)}.items():
        model = make_model(f"fcn{head}-edge-n-fpn", 3)
        assert model.backbone.channels == {stride: WIDTHS[stride] for stride in strides}
        assert set(model.backbone(torch.zeros(1, 3, 64, 96))) == set(strides)
    with pytest.raises(UsageError, match="fcn32s-edge-n-fpn"):
        make_model("fcn32s-edge-n-fpn", 3)


def test_fine_features_hear_of_coarse_ones() -> None:
    """A pixel far outside what the backbone sees at stride 4 changes what is scored there."""
    torch.manual_seed(0)
    plain, with_it = (make_model(name, 3).eval() for name in ("fcn4s-edge-n", NAME))
    near = torch.randint(0, 256, (1, 3, 192, 192), generator=torch.Generator().manual_seed(1)).float()
    far = near.clone()
    far[..., :32, :32] = 255 - far[..., :32, :32]
    with torch.no_grad():
        heard = [
            bool((model.features(near)[-1] != model.features(far)[-1])[..., 16:, 16:].any())
            for model in (plain, with_it)
        ]
    assert heard == [False, True]


def test_sides_that_are_no_multiples_of_32_are_counted_as_they_are() -> None:
    odd, even = (count_gmacs(make_model(NAME, 11), size_hw) for size_hw in ((360, 480), (384, 480)))
    assert odd == pytest.approx(even * 360 / 384, rel=0.03)


def test_backbone_rates_are_of_the_backbone_below() -> None:
    model = make_model(NAME, 3)
    below = {id(parameter) for parameter in model.backbone.bottom_up.parameters()}
    for group in make_optimizer(model, TrainConfig(backbone_lr=0.25)).param_groups:
        slow = {id(parameter) in below for parameter in group["params"]}
        assert slow == {group["factor"] == 0.25}
    freeze(model.train(), TrainConfig(backbone_lr=0.0))
    trained = {name.split(".")[0] for name, value in model.backbone.named_parameters() if value.requires_grad}
    assert trained == {"coarsest", "steps"}
    assert not model.backbone.bottom_up.training
    assert model.backbone.coarsest.training


@torch.no_grad()
def test_pyramid_pooling_adds_nothing_at_first_and_hears_of_all_around_once_it_has_learned() -> None:
    torch.manual_seed(0)
    plain = make_model("fcn8s-edge-n-fpn", 3).eval()
    pooled = make_model("fcn8s-edge-n-ppm-fpn", 3).eval()
    missing, unexpected = pooled.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[1] for name in missing} == {"context"}
    near = torch.randint(0, 256, (1, 3, 64, 640), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(pooled.backbone(near)[32], plain.backbone(near)[32])
    maps = torch.zeros(1, 128, 1, 20)
    context = pooled.backbone.context
    nn.init.ones_(context.widen[1].weight)
    far = maps.clone()
    far[..., 0] = 1.0
    heard = (context(far) != context(maps)).any(1).squeeze()
    assert heard.nonzero().flatten().tolist() == list(range(max(WINDOWS) // 2 + 1))


def test_an_average_counts_no_padding() -> None:
    """What is the same everywhere is the same at the border too, also where windows are larger than the image."""
    torch.manual_seed(0)
    context = PyramidPooling(8).eval()
    nn.init.ones_(context.widen[1].weight)
    with torch.no_grad():
        maps = context(torch.rand(1, 8, 1, 1).expand(1, 8, 3, 4))
    assert torch.allclose(maps, maps[..., :1, :1], atol=1e-6)
    assert maps.std() > 0
