"""From a checkpoint to one ONNX file that verified itself; knows nothing about precisions other than FP32 or engines.

The file takes a frame as OpenCV gives it and answers class ids; README, "The file", describes it. Its nodes up to the
score maps are torch's own trace of ``scores(features(...))`` with batch norm folded into the convolutions; the head is
one node, :mod:`.skip_head_onnx`.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from .. import __version__
from ..contract import MAX_SIDE, METADATA_KEY, Contract, json_from_contract
from ..errors import ModelError, UsageError
from ..files import replaced
from ..model.fcn import FCN
from ..model.folding import folded
from ..runtime.onnx_file import HEAD_DOMAIN
from ..training.checkpoint import model_from_checkpoint
from ..training.qat import is_quantised, learned_steps, unquantised
from .qdq import placement, places
from .quantize import SCALES_KEY, check_out
from .skip_head_onnx import IR_VERSION, OPSET, skip_head_function, skip_head_node
from .verify import noise_frames, require_agreement, verify

CHECKPOINT_KEY = "fcn_edge.checkpoint_sha256"

_log = logging.getLogger(__name__)


def onnx_from_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    size_hw: tuple[int, int] | None = None,
    *,
    force: bool = False,
    verify_frames: Sequence[NDArray[Any]] = (),
) -> Path:
    """Write a checkpoint as an ONNX file whose labels were compared with torch's.

    One of quantisation-aware training is written without its rounding; the steps that it learned go along, under
    :data:`~.quantize.SCALES_KEY`.

    Args:
        checkpoint: a ``.pt`` file that training wrote.
        out: the ``.onnx`` file to write; it appears whole or not at all.
        size_hw: (height, width) that the file takes; the checkpoint's own if None.
        force: whether an existing file may be replaced.
        verify_frames: uint8 ``[height, width, 3]`` BGR of any size, compared besides two frames of noise.

    Returns:
        ``out``.

    Raises:
        UsageError: if ``size_hw`` is no pair of 1 to 8192, or ``out`` exists, is no ``.onnx`` or cannot be written.
        ModelError: if the checkpoint is missing, damaged or contradicts its contract.
        GateError: if the file's labels are not torch's.
    """
    out = Path(out)
    check_out(out, force)
    model, contract, sha256 = _read(Path(checkpoint))
    if size_hw is not None:
        contract = resized(contract, size_hw)
    metadata = {CHECKPOINT_KEY: sha256}
    return write_onnx(model, contract, out, force=force, verify_frames=verify_frames, metadata=metadata)


def write_onnx(
    model: FCN,
    contract: Contract,
    out: str | Path,
    *,
    force: bool = False,
    verify_frames: Sequence[NDArray[Any]] = (),
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a model as :func:`onnx_from_checkpoint` does, with further metadata if given; raises as that does."""
    out = Path(out)
    check_out(out, force)
    steps: dict[str, float] = {}
    if is_quantised(model.state_dict()):
        steps, model = learned_steps(model), unquantised(model)
    proto = onnx_from_model(model, contract)
    metadata = {METADATA_KEY: json_from_contract(contract), **(metadata or {})}
    if steps:
        metadata[SCALES_KEY] = msgspec.json.encode(_by_tensor(proto, steps)).decode()
    helper.set_model_props(proto, metadata)
    try:
        with replaced(out) as temporary:
            temporary.write_bytes(proto.SerializeToString(deterministic=True))
            frames = [*noise_frames(contract.size_hw), *verify_frames]
            agreement = verify(temporary, model, frames)
            require_agreement(agreement, out)
    except OSError as exc:
        raise UsageError(f"{out} cannot be written: {exc.strerror or exc}; choose another place with -o") from exc
    _log.info("%s: %s", out, agreement)
    return out


def onnx_from_model(model: FCN, contract: Contract) -> onnx.ModelProto:
    """A model as ONNX: ``image`` uint8 ``[1, H, W, 3]`` BGR to ``labels`` int8 ``[1, H, W]``.

    Args:
        model: any mode; it is not changed.
        contract: what the model expects; its ``size_hw`` becomes the size of the file.

    Raises:
        ModelError: if the contract is not that of the model.
    """
    _check_contract(model, contract)
    height, width = contract.size_hw
    proto = _traced(model, contract.size_hw)
    graph = proto.graph
    scores = [value.name for value in graph.output]
    kernels = [f"skip_head.kernels.{index}" for index in range(len(scores))]
    for name, kernel in zip(kernels, model.kernels, strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(kernel.detach().float().cpu().numpy(), name))
    graph.node.append(skip_head_node(scores, kernels, "labels", contract.size_hw))
    proto.functions.append(skip_head_function(len(scores), model.num_classes, model.strides[-1]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("labels", TensorProto.INT8, [1, height, width]))
    graph.name = model.name
    proto.opset_import.append(helper.make_opsetid(HEAD_DOMAIN, 1))
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "fcn_edge", __version__
    helper.set_model_props(proto, {METADATA_KEY: json_from_contract(contract)})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def resized(contract: Contract, size_hw: tuple[int, int]) -> Contract:
    """The contract for another input size.

    Raises:
        UsageError: if it is no pair of whole numbers, or a side lies outside 1 to 8192.
    """
    try:
        height, width = map(operator.index, size_hw)
    except (TypeError, ValueError) as exc:
        raise UsageError(
            f"size is {size_hw!r}; expected two whole numbers (height, width), such as (360, 480)"
        ) from exc
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UsageError(f"size is {height}x{width}; expected sides of 1 to {MAX_SIDE}, such as --size 360x480")
    return replace(contract, size_hw=(height, width))


def _read(checkpoint: Path) -> tuple[FCN, Contract, str]:
    """A checkpoint's model and contract and the sha256 of the very file that they were read from."""

    def digest() -> str:
        with suppress(OSError):  # what is wrong with it, model_from_checkpoint tells
            return hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        return ""

    before = digest()
    model, contract = model_from_checkpoint(checkpoint)
    if digest() != before:  # a training run beside replaces its checkpoints
        raise ModelError(f"checkpoint {checkpoint} was replaced while it was read; export it again, or a copy of it")
    return model, contract, before


class _FrameToScores(nn.Module):
    """What is traced: from the frame to the score maps, channels first once the bytes are numbers."""

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 ``[1, H, W, 3]`` to float ``[1, C, h, w]`` each, coarse to fine."""
        # TensorRT takes a uint8 input only if its first consumer is a cast, so the cast stands before the permutation.
        channels_first = image.to(torch.float32).permute(0, 3, 1, 2)
        return tuple(self.net.scores(self.net.features(channels_first)))


def _traced(model: FCN, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """Torch's trace of a model up to its scores, tidied: no batch norms, constants as initializers, readable names."""
    net = copy.deepcopy(model).cpu().float().eval()
    net.backbone = folded(net.backbone)
    strides = net.strides
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _FrameToScores(net).eval(),
            (torch.zeros(1, *size_hw, 3, dtype=torch.uint8),),
            input_names=["image"],
            output_names=[f"scores_{stride}s" for stride in strides],
            opset_version=OPSET,
            dynamo=True,
            # Its optimiser merges the padding to whole cells into the first convolution's own, which no longer
            # looks like a convolution that TensorRT and OpenVINO have a fast kernel for.
            optimize=False,
            verbose=False,
        )
    assert program is not None  # for the type checker: the exporter returns a program unless it writes a file
    proto = program.model_proto
    _tidy(proto.graph)
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says about its own insides; its errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(graph: onnx.GraphProto) -> None:
    """Constants become initializers, unused ones go, convolutions get their module's name, the trace's notes go."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        node.attribute[0].t.name = node.output[0]
        graph.initializer.append(node.attribute[0].t)
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    names = {tensor.name: tensor.name.removeprefix("net.") for tensor in kept}
    for tensor in kept:
        tensor.name = names[tensor.name]
        tensor.ClearField("doc_string")
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        inputs = [names.get(name, name) for name in node.input]
        weight = next((name for name in inputs if name.endswith(".weight")), "")
        node.name = weight.removesuffix(".weight") or node.output[0]
        del node.input[:]
        node.input.extend(inputs)
        node.ClearField("doc_string")
        del node.metadata_props[:]  # stack traces with this machine's paths among them
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]


def _by_tensor(proto: onnx.ModelProto, steps: Mapping[str, float]) -> dict[str, float]:
    """Learned steps by the names of the file's tensors."""
    by_tensor = places(proto, placement(proto))
    if set(by_tensor.values()) != set(steps):
        odd = sorted(set(by_tensor.values()) ^ set(steps))
        raise ModelError(
            f"the checkpoint rounds other activations than an INT8 file does ({', '.join(odd[:4])}); fine-tune again "
            "with this version's fcn-edge train --qat"
        )
    return {tensor: steps[place] for tensor, place in by_tensor.items()}


def _check_contract(model: FCN, contract: Contract) -> None:
    """That the file will not say one thing and do another."""
    mean, std = (tuple(torch.as_tensor(values).flatten().tolist()) for values in (model.mean, model.std))
    pairs = {
        "model": (contract.model, model.name),
        "classes": (contract.num_classes, model.num_classes),
        "strides": (contract.strides, model.strides),
        "mean": (_as_float32(contract.mean), mean),
        "std": (_as_float32(contract.std), std),
    }
    for what, (said, is_) in pairs.items():
        if said != is_:
            raise ModelError(f"the contract's {what} is {said}, the model's {is_}; write the checkpoint again")


def _as_float32(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.tensor(values, dtype=torch.float32).tolist())
