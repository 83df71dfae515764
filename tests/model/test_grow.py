"""Growing: the large network starts with the small one's answers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from fcn_edge.errors import UsageError  # noqa: E402
from fcn_edge.model.fcn import make_model  # noqa: E402
from fcn_edge.model.grow import can_grow, grown_state  # noqa: E402


@pytest.mark.parametrize(("small", "large"), [("n", "s"), ("s", "m"), ("n", "m"), ("m", "t"), ("n-fpn", "s-fpn")])
def test_grown_network_answers_as_the_small_one_did(lively_model, small, large) -> None:
    before = lively_model(f"fcn4s-edge-{small}", 5).eval()
    after = make_model(f"fcn4s-edge-{large}", 5)
    after.load_state_dict(grown_state(before.state_dict(), before.name, after))
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(after.eval()(image), before(image), rtol=1e-3, atol=1e-3)


def test_what_is_new_learns(lively_model) -> None:
    before = lively_model("fcn8s-edge-n", 5)
    after = make_model("fcn8s-edge-s", 5).train()
    after.load_state_dict(grown_state(before.state_dict(), before.name, after))
    optimizer = torch.optim.SGD(after.parameters(), lr=0.01)
    for _ in range(2):  # at first only what listens to the new channels has a gradient, then all
        optimizer.zero_grad()
        after(torch.randn(2, 3, 64, 64) * 50 + 100).square().mean().backward()
        optimizer.step()
    without = {
        name
        for name, parameter in after.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    }
    assert not without


def test_gradients_tell_new_channels_apart(lively_model) -> None:
    before = lively_model("fcn8s-edge-n", 5)
    after = make_model("fcn8s-edge-s", 5).train()
    after.load_state_dict(grown_state(before.state_dict(), before.name, after))
    after(torch.randn(2, 3, 64, 64) * 50 + 100).square().mean().backward()
    new = after.backbone.s8.block1.body[0][0].weight.grad[:64, 64:]
    assert len(new.flatten(2).sum(2)[0].unique()) == 32


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("fcn4s-edge-s", "fcn4s-edge-n"),
        ("fcn8s-edge-n", "fcn4s-edge-s"),
        ("fcn4s-edge-n", "fcn4s-edge-n"),
        ("fcn4s-edge-n", "fcn4s-edge-s-fpn"),
        ("fcn8s-resnet18", "fcn8s-resnet50"),
    ],
)
def test_others_are_refused(small, large) -> None:
    assert not can_grow(small, large)
    with pytest.raises(UsageError, match=f"{small} cannot be grown into"):
        grown_state({}, small, make_model("fcn4s-edge-n", 2) if "4s-edge-n" in large else _named(large))


def _named(name: str):
    with torch.device("meta"):
        return make_model(name, 2)


def test_other_classes_have_scores_of_their_own(lively_model) -> None:
    before = lively_model("fcn8s-edge-n", 5)
    after = make_model("fcn8s-edge-s", 7)
    state = grown_state(before.state_dict(), before.name, after)
    for name, value in after.state_dict().items():
        if not name.startswith("backbone."):
            torch.testing.assert_close(state[name], value)
    torch.testing.assert_close(state["backbone.stem.0.0.weight"], before.backbone.stem[0][0].weight.detach())
