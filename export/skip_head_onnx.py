"""SkipHead in ONNX: its node, and its function for runtimes without the fused operator; knows nothing about models.

A model that holds the node and the function is one file for everyone: ONNX Runtime and TensorRT's parser expand the
function, an engine with the fused operator drops it. The function's labels are those of ``fcn_edge.skip_head`` except
where a score is NaN: there the runtime's own ArgMax decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..runtime.onnx_file import HEAD_DOMAIN, HEAD_OP
from ..skip_head import MAX_STAGES

OPSET = 19  # the first whose Q/DQ nodes take FP16 scales
IR_VERSION = 9  # what goes with opset 19


def skip_head_node(
    scores: Sequence[str], kernels: Sequence[str], output: str, size_hw: tuple[int, int], name: str = "skip_head"
) -> NodeProto:
    """The node ``fcn_edge::SkipHead`` over named tensors.

    Args:
        scores: names of the score maps ``[N, C, h_i, w_i]``, coarse to fine.
        kernels: names of as many kernels ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``.
        output: name of the labels, int8 ``[N, *size_hw]`` whose bytes are uint8 class ids.
        size_hw: (height, width) to crop to, from the top left.
        name: name of the node.

    Raises:
        ModelError: if there are not 1 to 4 score maps and as many kernels.
    """
    if len(scores) != len(kernels):
        raise ModelError(f"SkipHead got {len(scores)} score maps and {len(kernels)} kernels; expected equally many")
    _check_stages(len(scores))
    return helper.make_node(HEAD_OP, [*scores, *kernels], [output], name=name, domain=HEAD_DOMAIN, size=list(size_hw))


def skip_head_function(num_stages: int, num_classes: int, final_stride: int, opset: int = OPSET) -> FunctionProto:
    """The function that says, in standard operators, what the node means.

    Args:
        num_stages: number of score maps n, 1 (FCN-32s) to 4 (FCN-4s).
        num_classes: number of classes C, 1 to 256; it is the group of the transposed convolutions.
        final_stride: stride s of the last transposed convolution.
        opset: version of the standard operators, 13 or later; that of the model which holds the function.

    Returns:
        Function with inputs ``scores_1..n``, ``kernel_1..n``, attribute ``size`` and output ``labels``.

    Raises:
        ModelError: if a number is out of its range.
    """
    _check_stages(num_stages)
    if not 1 <= num_classes <= 256:
        raise ModelError(f"SkipHead got {num_classes} classes; expected 1 to 256, because labels are bytes")
    if final_stride < 2 or final_stride & (final_stride - 1):
        raise ModelError(f"SkipHead got a final stride of {final_stride}; expected a power of two, at least 2")
    scores = [f"scores_{i}" for i in range(1, num_stages + 1)]
    kernels = [f"kernel_{i}" for i in range(1, num_stages + 1)]
    nodes: list[NodeProto] = []
    total = scores[0]
    for i, finer in enumerate(scores[1:], start=1):
        nodes.append(_transposed_convolution(total, kernels[i - 1], f"up_{i}", 2, num_classes))
        nodes.append(helper.make_node("Add", [f"up_{i}", finer], [f"sum_{i}"]))
        total = f"sum_{i}"
    nodes.append(_transposed_convolution(total, kernels[-1], "full", final_stride, num_classes))
    nodes += _crop("full", "logits")
    nodes.append(helper.make_node("ArgMax", ["logits"], ["ids"], axis=1, keepdims=0, select_last_index=0))
    nodes += _bytes_from_ids("ids", "labels", num_classes)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(HEAD_DOMAIN, HEAD_OP, [*scores, *kernels], ["labels"], nodes, opsets, ["size"])


def skip_head_model(
    kernels: Sequence[npt.NDArray[np.float32]], grid_hw: tuple[int, int], size_hw: tuple[int, int], batch: int = 1
) -> ModelProto:
    """A model that is nothing but the head: scores in, labels out, kernels as initializers.

    Args:
        kernels: float32 kernels ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``.
        grid_hw: (height, width) of the coarsest score map.
        size_hw: (height, width) of the labels.
        batch: number of images N.

    Returns:
        Checked model: inputs ``scores_1..n``, float32 ``[N, C, h_i, w_i]``; output ``labels``, int8 ``[N, H, W]``.

    Raises:
        ModelError: if the kernels are not those of a SkipHead.
    """
    n = len(kernels)
    _check_stages(n)
    classes, final_stride = kernels[-1].shape[0], kernels[-1].shape[-1] // 2
    for i, kernel in enumerate(kernels):
        side = 4 if i < n - 1 else 2 * final_stride
        if kernel.shape != (classes, 1, side, side):
            raise ModelError(f"kernels[{i}] is {list(kernel.shape)}; expected [{classes}, 1, {side}, {side}]")
    score_names = [f"scores_{i}" for i in range(1, n + 1)]
    kernel_names = [f"kernel_{i}" for i in range(1, n + 1)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, classes, grid_hw[0] << i, grid_hw[1] << i])
        for i, name in enumerate(score_names)
    ]
    labels = helper.make_tensor_value_info("labels", TensorProto.INT8, [batch, *size_hw])
    initializers = [numpy_helper.from_array(kernel, name) for kernel, name in zip(kernels, kernel_names, strict=True)]
    node = skip_head_node(score_names, kernel_names, "labels", size_hw)
    graph = helper.make_graph([node], "skip_head", inputs, [labels], initializers)
    model = helper.make_model(
        graph,
        functions=[skip_head_function(n, classes, final_stride)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(HEAD_DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="fcn_edge",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _check_stages(num_stages: int) -> None:
    if not 1 <= num_stages <= MAX_STAGES:
        raise ModelError(f"SkipHead got {num_stages} score maps; expected 1 (FCN-32s) to {MAX_STAGES} (FCN-4s)")


def _transposed_convolution(maps: str, kernel: str, output: str, stride: int, group: int) -> NodeProto:
    return helper.make_node(
        "ConvTranspose",
        [maps, kernel],
        [output],
        group=group,
        strides=[stride, stride],
        pads=[stride // 2] * 4,
        kernel_shape=[2 * stride, 2 * stride],
    )


def _crop(maps: str, output: str) -> list[NodeProto]:
    ends = helper.make_node("Constant", [], ["ends"])
    ends.attribute.append(AttributeProto(name="value_ints", type=AttributeProto.INTS, ref_attr_name="size"))
    return [
        helper.make_node("Constant", [], ["starts"], value_ints=[0, 0]),
        ends,
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("Slice", [maps, "starts", "ends", "axes"], [output]),
    ]


def _bytes_from_ids(ids: str, output: str, num_classes: int) -> list[NodeProto]:
    """int64 ids to int8 of the same low byte, wrapped by hand above 127, where some runtimes saturate in a Cast."""
    cast = helper.make_node("Cast", ["wrapped" if num_classes > 128 else ids], [output], to=TensorProto.INT8)
    if num_classes <= 128:
        return [cast]
    return [
        helper.make_node("Constant", [], ["first_high"], value_int=128),
        helper.make_node("Constant", [], ["range"], value_int=256),
        helper.make_node("GreaterOrEqual", [ids, "first_high"], ["is_high"]),
        helper.make_node("Sub", [ids, "range"], ["lowered"]),
        helper.make_node("Where", ["is_high", "lowered", ids], ["wrapped"]),
        cast,
    ]
