"""The models that ship with the package: named, loadable, and as good as their record says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcn_edge import street
from fcn_edge.benchmarks.accuracy import evaluate
from fcn_edge.classes import CAMVID
from fcn_edge.dataset import open_dataset
from fcn_edge.export.facts import facts_from_file
from fcn_edge.pixels import fit_image, read_image
from fcn_edge.runtime import open_engine
from fcn_edge.runtime.engine_openvino_int8 import overflows
from fcn_edge.shipped import shipped_models

RECORDS = Path(__file__).parents[1] / "benchmarks" / "records"


def test_cards_say_what_the_record_of_their_twins_says() -> None:
    records = {"camvid-m": "quantised-long.json", "camvid-s": "quantised-slim.json"}
    for name, path in shipped_models().items():
        runs = json.loads((RECORDS / records.get(name, "quantised.json")).read_bytes())["runs"]
        contract = facts_from_file(path)["contract"]
        (run,) = [
            run for run in runs if (run["model"], run["size_hw"]) == (contract["model"], list(contract["size_hw"]))
        ]
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        assert f"in INT8 ({run['fp32']['miou']:.3f}\nmIoU in FP32)" in card
        assert f"**{run['int8_qat']['miou']:.3f}**" in card


def test_names_and_cards() -> None:
    assert {"camvid-n", "camvid-s", "camvid-m"} <= set(shipped_models())
    for path in shipped_models().values():
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        assert all(word in card for word in ("research", "0006R0", "Params", "Licence"))


@pytest.mark.parametrize("name", shipped_models())
def test_it_runs_on_a_frame_of_any_size(name: str) -> None:
    frame, truth = street.draw_street(3, 1.0, (333, 517))
    with open_engine(name, threads=1) as engine:
        assert engine.contract.class_names == tuple(CAMVID)
        labels = engine.infer(frame)
    road = street.CLASS_NAMES.index("Road")
    assert labels.shape == truth.shape
    assert (labels[truth == road] == road).mean() > 0.5  # a drawn road is a road to a network that knows photographs


def agreement_with_onnxruntime(name: str, draw: Callable[[tuple[int, int]], np.ndarray]) -> float:
    """Share of the labels that ONNX Runtime gives as it comes, with all that it rewrites, of a frame of a size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if overflows(pytest.importorskip("openvino")):
        pytest.skip("ONNX Runtime's sums of integers overflow on this CPU, which has no VNNI; the engine's do not")
    session = onnxruntime.InferenceSession(shipped_models()[name], providers=["CPUExecutionProvider"])
    with open_engine(name, threads=1) as engine:
        frame = draw(engine.contract.size_hw)
        labels = engine.infer(frame)
    (answer,) = session.run(None, {"image": frame[None]})
    return float((answer.view("uint8")[0] == labels).mean())


@pytest.mark.parametrize("name", shipped_models())
def test_any_onnx_runtime_gives_its_labels(name: str) -> None:
    """Bias and steps of a layer have once met in FP16, which overflowed: half of the labels of a drawn street."""
    onnxruntime = pytest.importorskip("onnxruntime")
    is_new = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24)
    # 0.99 with the newest, 0.91 to 0.98 with older ones, as no model knows what it sees there.
    share = agreement_with_onnxruntime(name, lambda size_hw: street.draw_street(3, 1.0, size_hw)[0])
    assert share > (0.95 if is_new else 0.88)


@pytest.mark.parametrize("name", shipped_models())
def test_any_onnx_runtime_gives_its_labels_of_what_it_knows(name: str, camvid: Path) -> None:
    # 0.998 with the newest, 0.995 with older ones.
    image = read_image(camvid / "val" / "0016E5_07959.png")
    assert agreement_with_onnxruntime(name, lambda size_hw: fit_image(image, size_hw)) > 0.99


@pytest.mark.parametrize("name", shipped_models())
def test_it_is_what_its_record_describes(name: str, camvid: Path) -> None:
    record = json.loads((RECORDS / f"{name}.json").read_text())
    with open_engine(name, threads=1) as engine:
        result = evaluate(engine, open_dataset(camvid), "val")
    assert result["miou"] == pytest.approx(record["eval"]["val"]["miou"], abs=0.005)
