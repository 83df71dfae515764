"""The audit: types read from a network and from what TensorRT's inspector prints, and what is no pass."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcn_edge.errors import ModelError
from fcn_edge.export.audit import check_engine, check_types, shares_of, types_in_engine, types_in_network

# The inspector's words, in the forms that TensorRT 8.6 to 10.x print them.
ENGINE = json.dumps(
    {
        "Layers": [
            {
                "Name": "Reformatting CopyNode for Input Tensor 0 to stem.0 + stem.1",
                "LayerType": "Reformat",
                "Inputs": [{"Name": "image", "Format/Datatype": "Row major linear FP32"}],
                "Outputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            },
            {
                "Name": "stem.0 + stem.1",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
                "Outputs": [
                    {"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}
                ],
                "Weights": {"Type": "Half", "Count": 864},
            },
            {
                "Name": "__myl_Conv_0",
                "LayerType": "conv",
                "Inputs": [{"Name": "y", "Format/Datatype": "Int8"}],
                "Outputs": [{"Name": "z", "Format/Datatype": "Half"}],
                "Metadata": "[ONNX Layer: body.0]\u001f[ONNX Layer: relu_3]",
            },
            {"Name": "body.01", "LayerType": "conv", "Inputs": [{"Name": "z", "Datatype": "BF16"}], "Outputs": []},
            "a layer at a lower verbosity is a string",
        ]
    }
)


def test_types_of_an_engine() -> None:
    names = {"stem.0": "fp16", "stem.1": "fp16", "body.0": "int8", "body.01": "bf16", "gone": "int8"}
    assert types_in_engine(ENGINE, names) == {"stem.0": "fp16", "stem.1": "fp16", "body.0": "int8", "body.01": "bf16"}
    assert types_in_engine('{"Layers": []}', names) == {}


NAMES = {f"conv{index}": "fp16" for index in range(4)}


def whole(*names: str, metadata: bool = True) -> dict[str, Any]:
    """The layer that TensorRT-RTX makes of a whole network, and TensorRT of large parts: from frame to labels."""
    return {
        "Name": f"{{ForeignNode[{names[0]}...{names[-1]}]}}",
        "LayerType": "Myelin",
        "Inputs": [{"Name": "image", "Format/Datatype": "UINT8"}],
        "Outputs": [{"Name": "labels", "Format/Datatype": "INT8"}],
        "Metadata": "".join(f"[ONNX Layer: {name}]\x1f" for name in names) if metadata else "",
    }


@pytest.mark.parametrize("metadata", [True, False])
def test_a_layer_made_of_several_tells_nothing_of_them(metadata: bool) -> None:
    """Its output is the labels' int8, which is the type of none of its convolutions."""
    text = json.dumps({"Layers": [whole(*NAMES, metadata=metadata)]})
    assert types_in_engine(text, NAMES) == {}
    single = {"Name": "conv3", "LayerType": "conv", "Inputs": [{"Name": "x", "Datatype": "Half"}], "Outputs": []}
    text = json.dumps({"Layers": [whole(*list(NAMES)[:3], metadata=metadata), single]})
    assert types_in_engine(text, NAMES) == {"conv3": "fp16"}


def test_what_tensorrt_rtx_tells_of_an_int8_engine_on_a_gpu() -> None:
    """Its own words: the layer after a convolution that scales the sums is float, and mentions it too."""
    recorded = Path(__file__).with_name("inspector_rtx_int8.json").read_text()
    types = json.loads(recorded)["types"]
    assert shares_of(types)["int8"] > 0.8
    assert types_in_engine(recorded, types) == types
    assert check_engine("int8", types, types_in_engine(recorded, types), "an engine")


def test_names_with_raw_control_characters() -> None:
    """As TensorRT 8.6 EA wrote them, which is no JSON by the letter."""
    raw = ENGINE.replace("\\u001f", "\x1f")
    assert raw != ENGINE
    assert types_in_engine(raw, {"body.0": "int8"}) == {"body.0": "int8"}


class Layer:
    """As much of an ILayer as is read."""

    def __init__(self, name: str, kind: str, inputs: list[Any], output: Any) -> None:
        self.name, self.type, self._inputs, self._output = name, SimpleNamespace(name=kind), inputs, output
        self.num_inputs, self.num_outputs = len(inputs), 1

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._output


def tensor(name: str, dtype: str) -> Any:
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=dtype))


def test_types_of_a_network() -> None:
    """A layer is int8 only if its weights are quantised as well as its data."""
    half, quantised = tensor("half", "HALF"), tensor("q", "INT8")
    data, weights = tensor("dq", "HALF"), tensor("dqw", "HALF")
    layers = [
        Layer("q", "QUANTIZE", [half], quantised),
        Layer("dq", "DEQUANTIZE", [quantised], data),
        Layer("dqw", "DEQUANTIZE", [tensor("w", "INT8")], weights),
        Layer("both", "CONVOLUTION", [data, weights], tensor("a", "HALF")),
        Layer("data only", "CONVOLUTION", [data], tensor("b", "HALF")),
        Layer("plain", "CONVOLUTION", [tensor("f", "FLOAT")], tensor("c", "FLOAT")),
        Layer("relu", "ACTIVATION", [half], tensor("d", "HALF")),
    ]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    assert types_in_network(network) == {"both": "int8", "data only": "fp16", "plain": "fp32"}


EIGHT = {f"layer {index}": "int8" for index in range(8)}


@pytest.mark.parametrize(
    ("asked", "expected", "found", "exact"),
    [
        ("fp16", {"a": "fp32", "b": "fp32"}, {"a": "fp32", "b": "fp32"}, True),  # the file itself is not it
        ("fp16", {"a": "fp16", "b": "fp16"}, {"a": "fp32", "b": "fp32"}, False),  # asked for by flag, and ignored
        ("fp32", {"a": "fp32", "b": "fp32"}, {"a": "fp32", "b": "fp16"}, False),
        ("fp16", {"a": "fp16", "b": "fp16"}, {"a": "fp16"}, True),  # a layer is missing
        ("int8", {**EIGHT, "a": "fp16"}, {**EIGHT, "a": "fp16", "layer 1": "fp16"}, True),
        ("int8", EIGHT, {**EIGHT, "layer 1": "fp16"}, False),  # 7 of 8 where 8 of 8 were quantised
        ("int8", EIGHT, {}, False),  # an inspector that tells nothing is no proof
    ],
)
def test_another_precision_is_an_error(asked: str, expected: dict, found: dict, exact: bool) -> None:
    with pytest.raises(ModelError, match=f"the engine was to be {asked}, but its layers run in"):
        check_types(asked, expected, found, "the engine", exact)


def test_what_was_asked_for_passes() -> None:
    mixed = {**EIGHT, "a": "fp16"}
    check_types("int8", mixed, mixed, "x", exact=True)
    check_types("int8", mixed, {name: mixed[name] for name in list(mixed)[2:]}, "x", exact=False)
    check_types("fp32", {"a": "fp32"}, {"a": "fp32"}, "x", exact=True)
    assert shares_of({**EIGHT, "a": "fp16", "b": "fp16"}) == {"int8": 0.8, "fp16": 0.2}


TEN = {f"layer {index}": "int8" for index in range(10)}


@pytest.mark.parametrize(
    ("asked", "expected", "found", "is_told"),
    [
        ("fp16", NAMES, NAMES, True),
        ("fp16", NAMES, {"conv0": "fp16", "conv1": "fp16"}, True),
        ("fp16", NAMES, {"conv0": "fp16"}, False),
        ("fp32", {"a": "fp32", "b": "fp32"}, {}, False),
        ("int8", {**TEN, "a": "fp16", "b": "fp16"}, {"a": "fp16", "b": "fp16"}, False),  # nothing of what was asked for
        # Of ten int8 layers five are not told, so fp16 has a larger share of what is than in the file.
        ("int8", {**TEN, "a": "fp16", "b": "fp16"}, {**dict(list(TEN.items())[:5]), "a": "fp16", "b": "fp16"}, True),
    ],
)
def test_what_an_engine_tells_is_judged_as_far_as_it_goes(
    asked: str, expected: dict, found: dict, is_told: bool
) -> None:
    assert check_engine(asked, expected, found, "the engine") is is_told


@pytest.mark.parametrize(
    ("asked", "expected", "found"),
    [
        ("fp16", NAMES, dict.fromkeys(NAMES, "fp32")),
        ("fp16", NAMES, {"conv0": "fp16", "conv1": "fp32"}),
        ("fp16", NAMES, {"conv0": "fp32"}),  # little is told, and that is wrong
        ("fp32", NAMES | dict.fromkeys(NAMES, "fp32"), {"conv0": "fp16"}),
        ("int8", TEN, {"layer 1": "int8", "layer 2": "fp16", "layer 3": "fp16"}),
    ],
)
def test_what_an_engine_tells_may_contradict(asked: str, expected: dict, found: dict) -> None:
    with pytest.raises(ModelError, match=f"the engine was to be {asked}, but its layers run in"):
        check_engine(asked, expected, found, "the engine")
