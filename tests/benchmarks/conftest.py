"""Models and data for the benchmarks' tests: an ONNX file made by hand, a checkpoint, a drawn data set."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_edge import pixels, street
from fcn_edge.classes import distinct_palette
from fcn_edge.contract import METADATA_KEY, Contract, json_from_contract
from fcn_edge.dataset import open_dataset
from fcn_edge.export.skip_head_onnx import skip_head_function, skip_head_node

NAMES = ("road", "car", "sky", "tree")
SIZE_HW = (32, 48)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Drawn streets: ten of sequence a, two of sequence b."""
    root = tmp_path_factory.mktemp("sequences")
    for number in range(12):
        name = f"{'a' if number < 10 else 'b'}_{number:02d}.png"
        image, labels = street.draw_street(number, 5.0, (64, 96))
        pixels.write_png(root / "images" / "train" / name, image)
        pixels.write_png(root / "masks" / "train" / name, labels)
    (root / "classes.json").write_bytes(msgspec.json.encode({"names": street.CLASS_NAMES, "palette": street.PALETTE}))
    return root


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory) -> Path:
    """FCN of one convolution and stride 8 in whole numbers, so that every runtime must give the very same labels."""
    random = np.random.default_rng(3)
    count, (height, width) = len(NAMES), SIZE_HW
    weight = random.integers(-2, 3, (count, 3, 8, 8)).astype(np.float32)
    kernel = random.integers(0, 4, (count, 1, 16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["scores"], strides=[8, 8], kernel_shape=[8, 8]),
        skip_head_node(["scores"], ["kernel"], "labels", SIZE_HW),
    ]
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(kernel, "kernel")]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.INT8, [1, height, width])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("fcn_edge", 1)]
    function = skip_head_function(1, count, 8, 19)
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    contract = Contract("small", SIZE_HW, NAMES, distinct_palette(count), (0.0,) * 3, (1.0,) * 3, (8,))
    helper.set_model_props(model, {METADATA_KEY: json_from_contract(contract)})
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """``fcn8s-edge-n`` with random scores: a fresh one starts from zeros, where all classes tie."""
    import torch

    from fcn_edge.model.fcn import MEAN_BGR, STD_BGR, make_model
    from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint
    from fcn_edge.training.config import TrainConfig

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = make_model("fcn8s-edge-n", len(NAMES))
        for conv in model.score_convs:
            torch.nn.init.normal_(conv.weight, std=0.1)
    contract = Contract(model.name, SIZE_HW, NAMES, distinct_palette(4), MEAN_BGR, STD_BGR, model.strides)
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    state = model.state_dict()
    config = TrainConfig(data=".", out=".", model=model.name)
    save_checkpoint(path, Checkpoint(contract, config, model=state, ema=state))
    return path


@pytest.fixture(scope="session")
def held_out_checkpoint(lively_model, tmp_path_factory) -> Path:
    """A lively ``fcn8s-edge-n`` for ``data``, said to have learned without its sequence b."""
    from fcn_edge.training.checkpoint import Checkpoint, save_checkpoint
    from fcn_edge.training.config import TrainConfig

    model = lively_model("fcn8s-edge-n", len(street.CLASS_NAMES))
    mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
    names, palette = tuple(street.CLASS_NAMES), tuple(map(tuple, street.PALETTE))
    contract = Contract(model.name, (64, 96), names, palette, mean, std, model.strides)
    config = TrainConfig(model=model.name, holdout="b", logit_adjustment=0.25)
    path, state = tmp_path_factory.mktemp("run") / "last.pt", model.state_dict()
    save_checkpoint(path, Checkpoint(contract, config, model=state, ema=state))
    return path


@pytest.fixture
def drawn_root(tmp_path) -> Path:
    """Three images of 40x60 with random masks: another size than the models'."""
    random = np.random.default_rng(1)
    for index in range(3):
        image = random.integers(0, 256, (40, 60, 3), np.uint8)
        pixels.write_png(tmp_path / "data" / "images" / "val" / f"{index}.png", image)
        mask = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (40, 60))
        pixels.write_png(tmp_path / "data" / "masks" / "val" / f"{index}.png", mask)
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"names": list(NAMES)}))
    return tmp_path / "data"


@pytest.fixture
def drawn(drawn_root):
    return open_dataset(drawn_root)
