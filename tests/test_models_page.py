"""docs/models.md: its figures are computed, and its example runs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

from fcn_edge import street
from fcn_edge.cli import main
from fcn_edge.model.fcn import FCN, count_gmacs, count_params, make_model, model_names
from fcn_edge.training.checkpoint import model_from_checkpoint

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def test_every_backbone_has_a_row() -> None:
    usual = {name for name in model_names() if name.startswith("fcn8s-")}
    assert {name for name in usual if not name.endswith("-fpn")} < set(ROWS) < usual


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    millions, gmacs, heads, _, widths, batch_norm = ROWS[name]
    with torch.device("meta"):
        model = make_model(name, 11)
    backbone = name.removeprefix("fcn8s-")
    assert millions == f"{count_params(model) / 1e6:.2f}"
    assert gmacs == f"{count_gmacs(model, (360, 480)):.2f}"
    assert {f"fcn{head}-{backbone}" for head in heads.split()} == {
        other for other in model_names() if other.endswith(f"s-{backbone}")
    }
    assert widths == " / ".join(str(model.backbone.channels[stride]) for stride in (8, 16, 32))
    assert batch_norm == ("yes" if any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) else "no")


@functools.cache
def on_meta(name: str) -> FCN:
    with torch.device("meta"):
        return make_model(name, 11)


@functools.cache
def gmacs_of(name: str) -> float:
    return count_gmacs(on_meta(name), (360, 480))


def test_another_head_changes_the_cost_by_less_than_the_page_says() -> None:
    for name in model_names():
        usual = re.sub(r"fcn\d+s", "fcn8s", name)
        if name.endswith("-fpn"):
            if usual in ROWS:
                more = {16: -0.25, 8: 0, 4: 0.12}[on_meta(name).strides[-1]]
                assert gmacs_of(name) - gmacs_of(usual) == pytest.approx(more, abs=0.015)
            continue
        assert count_params(on_meta(name)) == pytest.approx(count_params(on_meta(usual)), rel=0.05)
        assert gmacs_of(name) == pytest.approx(gmacs_of(usual), rel=0.05)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```sh\n(fcn-edge train .*?--init resnet18.pth.*?)\n```", PAGE)
    monkeypatch.chdir(tmp_path)
    street.write_dataset(tmp_path / "camvid", train=2, val=1, size_hw=(64, 96))
    torch.manual_seed(0)
    state = make_model("fcn32s-resnet18", 2).backbone.state_dict()
    torch.save(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, "resnet18.pth")
    short = "--epochs 1 --batch 2 --threads 1 --backbone-lr 0 --ema 0"  # a frozen backbone keeps what it was given
    assert main([*example.split()[1:], *short.split()]) == 0
    model, _ = model_from_checkpoint(tmp_path / "runs" / "train" / "last.pt")
    assert model.name == "fcn8s-resnet18"
    assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
