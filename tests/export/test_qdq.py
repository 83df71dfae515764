"""Where Q/DQ nodes stand, which scales they hold and what they leave alone; on real graphs, node by node."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import numpy_helper  # noqa: E402

from fcn_edge.errors import UsageError  # noqa: E402
from fcn_edge.export.half import rounded_to_half  # noqa: E402
from fcn_edge.export.qdq import insert_qdq, placement, weight_scales  # noqa: E402
from fcn_edge.export.to_onnx import onnx_from_model  # noqa: E402


@pytest.fixture(scope="module")
def exported(lively_model, contract_of):
    model = lively_model("fcn8s-edge-n", 5)
    return onnx_from_model(model, contract_of(model, (64, 96)))


@pytest.fixture(scope="module")
def quantised(exported):
    where = placement(exported)
    scales = {tensor: 0.01 * (index + 1) for index, tensor in enumerate(where.tensors)}
    return where, scales, insert_qdq(exported, where, scales)


def by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_first_convolution_scores_and_head_are_left_alone(exported, quantised) -> None:
    where, _, model = quantised
    convs = [node.name for node in exported.graph.node if node.op_type == "Conv"]
    assert where.kept == (convs[0], "score_convs.0", "score_convs.1", "score_convs.2")
    assert where.layers == tuple(convs[1:-3])
    before, after = arrays(exported), arrays(model)
    for name in where.kept:
        np.testing.assert_array_equal(after[f"{name}.weight"], before[f"{name}.weight"])
    head = model.graph.node[-1]
    assert head == exported.graph.node[-1]
    assert "DequantizeLinear" not in {by_output(model)[name].op_type for name in head.input[:3]}


def test_every_layer_reads_int8_on_both_sides_and_its_bias_as_it_was(exported, quantised) -> None:
    where, _, model = quantised
    makers, before, after = by_output(model), arrays(exported), arrays(model)
    for node in (node for node in model.graph.node if node.name in where.layers):
        data, weight = makers[node.input[0]], makers[node.input[1]]
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert makers[data.input[0]].op_type == "QuantizeLinear"
        assert [(attribute.name, attribute.i) for attribute in weight.attribute] == [("axis", 0)]
        assert after[weight.input[0]].dtype == np.int8
        assert after[weight.input[1]].shape == (after[weight.input[0]].shape[0],)
        np.testing.assert_array_equal(after[node.input[2]], before[f"{node.name}.bias"])


def test_both_inputs_of_each_addition_are_quantised(quantised) -> None:
    makers = by_output(quantised[2])
    additions = [node for node in quantised[2].graph.node if node.op_type == "Add"]
    assert len(additions) == 8
    for node in additions:
        assert [makers[name].op_type for name in node.input] == ["DequantizeLinear"] * 2


def test_nothing_stands_between_a_convolution_and_its_relu(quantised) -> None:
    makers = by_output(quantised[2])
    relus = [node for node in quantised[2].graph.node if node.op_type == "Relu"]
    assert {makers[node.input[0]].op_type for node in relus} == {"Conv", "Add"}


def test_a_tensor_has_one_pair_that_all_its_readers_share(exported, quantised) -> None:
    where, scales, model = quantised
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert [node.input[0] for node in pairs] == list(where.tensors)
    found = arrays(model)
    for node in pairs:
        tensor = node.input[0]
        assert float(found[node.input[1]]) == pytest.approx(scales[tensor], rel=2**-11)
        assert float(found[node.input[1]]) == np.float16(scales[tensor])  # so that a file of FP16 holds the same one
        assert (found[node.input[2]].dtype, int(found[node.input[2]])) == (np.int8, 0)
        readers = [other for other in model.graph.node if tensor in other.input]
        assert readers == [node], "someone reads the tensor past its quantisation"
    # what feeds the finest and the middle scores also feeds a layer; what feeds the coarsest does not
    scored = [node.input[0].endswith(".dq") for node in model.graph.node if node.name.startswith("score_convs")]
    assert scored == [False, True, True]
    assert not {node.op_type for node in exported.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    onnx.checker.check_model(model, full_check=True)


def test_weights_are_rounded_to_their_own_steps(exported, quantised) -> None:
    where, _, model = quantised
    before, after = arrays(exported), arrays(model)
    for layer in where.layers:
        name = f"{layer}.weight"
        steps = after[f"{name}.scale"]
        back = after[name].astype(np.float32) * steps[:, None, None, None]
        assert np.abs(after[name]).max() == 127
        assert (np.abs(back - before[name]) <= 0.505 * steps[:, None, None, None]).all()
        assert (steps == steps.astype(np.float16)).all()


def test_weight_scales_of_known_channels() -> None:
    weight = np.zeros((4, 2, 1, 1), np.float32)
    weight[0, 0] = 127
    weight[1, 1] = -0.5 * 127
    weight[2, 0] = 1e-7  # its step is no normal FP16 number, a dead channel's none at all
    scales = weight_scales(weight)
    np.testing.assert_array_equal(scales, np.array([1, 0.5, 2**-14, 2**-14], np.float32))
    assert rounded_to_half(0.1) == np.float16(0.1)


def test_layers_kept_out_by_name_and_pattern(exported) -> None:
    block = "backbone.s8.block1.body"
    one = placement(exported, [f"{block}.1"])
    everything = placement(exported)
    assert set(everything.layers) - set(one.layers) == {f"{block}.1"}
    # Its output feeds an addition, which is then no integer one; what the addition reads besides feeds a layer still.
    assert len(set(everything.tensors) - set(one.tensors)) == 2
    stage = placement(exported, ["backbone.s8.*", "backbone.s16.block0.*"])
    assert not [name for name in stage.layers if name.startswith(("backbone.s8.", "backbone.s16.block0."))]
    model = insert_qdq(exported, stage, dict.fromkeys(stage.tensors, 0.1))
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == len(stage.tensors)


@pytest.mark.parametrize("name", ["fcn16s-googlenet", "fcn8s-resnet50", "fcn4s-efficientnet-lite0"])
def test_other_backbones(lively_model, contract_of, name) -> None:
    model = lively_model(name, 3)
    exported = onnx_from_model(model, contract_of(model, (64, 64)))
    where = placement(exported)
    quantised = insert_qdq(exported, where, dict.fromkeys(where.tensors, 0.05))
    onnx.checker.check_model(quantised, full_check=True)
    makers = by_output(quantised)
    layers = [node for node in quantised.graph.node if node.name in where.layers]
    assert len(layers) == sum(node.op_type == "Conv" for node in exported.graph.node) - 1 - len(model.strides)
    assert all(makers[node.input[0]].op_type == makers[node.input[1]].op_type == "DequantizeLinear" for node in layers)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none_are_refused(exported, scale) -> None:
    where = placement(exported)
    scales = dict.fromkeys(where.tensors, 0.1)
    if scale is None:
        del scales[where.tensors[3]]
    else:
        scales[where.tensors[3]] = scale
    with pytest.raises(UsageError, match=where.tensors[3]):
        insert_qdq(exported, where, scales)


def test_patterns_that_fit_nothing_and_everything_are_refused(exported) -> None:
    with pytest.raises(UsageError, match=r"no layer is called 'backbone\.s64.*backbone\.s8\.block0\.body\.0\.0"):
        placement(exported, ["backbone.s64*"])
    with pytest.raises(UsageError, match="no layer is left"):
        placement(exported, ["*"])
