"""The comparison with torch: what counts as a tie, what fails, and CamVid's validation images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from fcn_edge.errors import GateError, ModelError  # noqa: E402
from fcn_edge.export.to_onnx import resized, write_onnx  # noqa: E402
from fcn_edge.export.verify import Agreement, compared, noise_frames, require_agreement, verify  # noqa: E402
from fcn_edge.pixels import read_image  # noqa: E402
from fcn_edge.training.checkpoint import model_from_checkpoint  # noqa: E402


def test_only_logits_that_tie_excuse_another_label() -> None:
    logits = torch.tensor([[[1.0, 1.0, 1000.0, 1.0]], [[0.99995, 0.9, 999.95, 0.5]], [[0.0, 0.0, 0.0, 0.0]]])
    assert compared(logits, np.array([[0, 0, 0, 0]], np.uint8)) == (0, 0)
    assert compared(logits, np.array([[1, 0, 0, 0]], np.uint8)) == (1, 1)
    assert compared(logits, np.array([[0, 1, 0, 0]], np.uint8)) == (1, 0)
    assert compared(logits, np.array([[0, 0, 1, 0]], np.uint8)) == (1, 1), "the share counts where logits are large"
    assert compared(logits, np.array([[2, 0, 0, 0]], np.uint8)) == (1, 0), "a tie of others excuses nothing"
    assert compared(logits, np.array([[9, 0, 0, 0]], np.uint8)) == (1, 0), "no class at all"


def test_nan_is_no_tie() -> None:
    logits = torch.tensor([[[float("nan")]], [[1.0]]])
    assert compared(logits, np.array([[1]], np.uint8)) == (1, 0)


@pytest.mark.parametrize(
    ("agreement", "passed"),
    [
        (Agreement(1, 100_000, 0, 0), True),
        (Agreement(1, 100_000, 10, 10), True),
        (Agreement(1, 100_000, 11, 11), False),
        (Agreement(1, 100_000, 1, 0), False),
        (Agreement(0, 0, 0, 0), False),
    ],
)
def test_gate(agreement: Agreement, passed: bool) -> None:
    assert agreement.passed == passed
    if passed:
        require_agreement(agreement, Path("x.onnx"))
    else:
        with pytest.raises(GateError, match=r"x\.onnx is not written: .*expected at least 99\.99%"):
            require_agreement(agreement, Path("x.onnx"))


@pytest.fixture(scope="module")
def written(tmp_path_factory, lively_model, contract_of) -> Path:
    model = lively_model("fcn8s-edge-n", 11)
    return write_onnx(model, contract_of(model, (90, 120)), tmp_path_factory.mktemp("verify") / "model.onnx")


def perturbed_score(model, class_id: int):
    with torch.no_grad():
        model.score_convs[2].weight[class_id, 5] += 5
    return model


def test_one_perturbed_weight_of_a_class_that_wins_is_noticed(written, lively_model) -> None:
    frames = noise_frames((90, 120))
    model = lively_model("fcn8s-edge-n", 11)
    assert verify(written, model, frames).passed
    with torch.no_grad():
        labels = model(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)).argmax(1)
    winner, second = labels.flatten().bincount().topk(2).indices.tolist()
    for class_id in (winner, second):
        agreement = verify(written, perturbed_score(lively_model("fcn8s-edge-n", 11), class_id), frames)
        assert not agreement.passed
        assert agreement.differing > agreement.ties
    # The limit that verify's docstring names: no pixel of these frames is of class 3, so no label tells.
    assert 3 not in labels
    assert verify(written, perturbed_score(lively_model("fcn8s-edge-n", 11), 3), frames).differing == 0


def test_frames_of_any_size_are_fitted_and_the_mode_is_kept(written, lively_model) -> None:
    model = lively_model("fcn8s-edge-n", 11).train()
    agreement = verify(written, model, [*noise_frames((81, 33), 2), *noise_frames((90, 120), 1)])
    assert model.training
    assert (agreement.frames, agreement.pixels) == (3, 3 * 90 * 120)
    assert agreement.passed


def test_what_onnxruntime_cannot_run_is_a_model_error(tmp_path, written, lively_model) -> None:
    model = lively_model("fcn8s-edge-n", 11)
    exported = onnx.load(written)
    del exported.functions[:]
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.SerializeToString())
    with pytest.raises(ModelError, match=r"ONNX Runtime refuses .*model\.onnx"):
        verify(path, model, noise_frames((90, 120)))


def test_noise_frames_vary() -> None:
    first, second = noise_frames((50, 71))
    assert first.shape == (50, 71, 3)
    assert first.dtype == np.uint8
    assert first.std() > 20
    assert (first != second).mean() > 0.9
    assert (noise_frames((50, 71), 1)[0] == first).all()


@pytest.mark.slow
def test_all_of_camvids_validation_images(camvid, tmp_path, lively_model, contract_of) -> None:
    """With FCN_EDGE_CHECKPOINT set, the model of that file; else an untrained one whose labels vary."""
    given = os.environ.get("FCN_EDGE_CHECKPOINT")
    if given:
        model, contract = model_from_checkpoint(Path(given))
        contract = resized(contract, (360, 480))
    else:
        model = lively_model("fcn8s-edge-n", 11)
        contract = contract_of(model, (360, 480))
    path = write_onnx(model, contract, tmp_path / "model.onnx")
    images = sorted((camvid / "val").glob("*.png"))
    assert len(images) == 101
    agreement = verify(path, model, map(read_image, images))
    assert agreement.pixels == 101 * 360 * 480
    assert agreement.passed, str(agreement)


@pytest.mark.parametrize(("other", "ties"), [(0.99995, 1), (0.9995, 0)])
def test_only_what_rounding_can_turn_is_a_tie(other: float, ties: int) -> None:
    logits = torch.tensor([other, 1.0]).view(2, 1, 1)
    assert compared(logits, np.zeros((1, 1), np.uint8)) == (1, ties)
    assert compared(100 * logits, np.zeros((1, 1), np.uint8)) == (1, ties), "a share of the larger one"
