"""Which type each layer runs in, of a parsed network or of a built engine, against what its ONNX file says.

Reads what TensorRT tells; imports nothing of it. Asking for a precision and getting it are two things: builders have
given FP32 engines to those who asked for FP16, without an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ModelError

_WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_NAMES = {"float": "fp32", "half": "fp16", "int8": "int8", "bf16": "bf16", "fp32": "fp32", "fp16": "fp16", "fp8": "fp8"}
_WORDS = re.compile(r"\b(int8|float|half|bf16|fp32|fp16|fp8)\b", re.I)
_NUMBER = re.compile(r"_myl\d+_\d+$")  # of a layer that TensorRT-RTX has compiled
_LEAST_KEPT = 0.9  # of the share that the file gives to a type: in an engine some layers are fused beyond recognition


def types_in_network(network: Any) -> dict[str, str]:
    """Type of each layer with weights of a parsed network (``INetworkDefinition``), by name.

    A layer whose data and weights are dequantised int8 is an int8 layer: the builder fuses them. Where only its
    data is, because another reader wanted it so, it multiplies what the rest of the network is made of.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}

    def type_of(layer: Any) -> str:
        inputs = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
        sources = [makers[tensor.name] for tensor in inputs if tensor.name in makers]
        if [source.type.name for source in sources] == ["DEQUANTIZE", "DEQUANTIZE"]:
            return _short(sources[0].get_input(0).dtype.name)
        return _short(inputs[0].dtype.name)

    return {layer.name: type_of(layer) for layer in layers if layer.type.name in _WEIGHTED}


def types_in_engine(information: str, names: Mapping[str, str]) -> dict[str, str]:
    """Type of each layer with weights of an engine, by its name in the ONNX file; unrecognisable ones are left out.

    Args:
        information: what ``IEngineInspector.get_engine_information`` gives as JSON at verbosity DETAILED: fused layers
            name the ONNX layers that went into them in ``Metadata`` (TensorRT 10) or ``Name``. A layer that several of
            ``names`` went into and that tells no weights of its own, such as the one that TensorRT-RTX makes of a whole
            network without a GPU, tells nothing of them: its inputs and outputs are not theirs. Of several layers that
            one of ``names`` went into the one named after it counts: on a GPU, TensorRT-RTX puts the rounding before a
            convolution and the scales after it into layers of their own.
        names: the layers to look for.
    """
    told = json.loads(information, strict=False)  # some versions leave control characters in names as they are
    mentions = {name: re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])") for name in names}
    found: dict[str, str] = {}
    named: dict[str, str] = {}
    for layer in told.get("Layers", []):
        if not isinstance(layer, dict) or not _computes(layer):
            continue
        own = _NUMBER.sub("", str(layer.get("Name", "")))
        text = f"{layer.get('Metadata', '')} + {own}"
        inside = [name for name, mention in mentions.items() if mention.search(text)]
        kind = _engine_type(layer) if len(inside) == 1 or isinstance(layer.get("Weights"), dict) else ""
        if kind:
            found |= {name: kind for name in inside if name not in found}
            named |= {own: kind} if own in names else {}
    return found | named


def check_types(asked: str, expected: Mapping[str, str], found: Mapping[str, str], what: str, exact: bool) -> None:
    """Compare what was found with what the file says and with what was asked for.

    Args:
        asked: ``fp32``, ``fp16`` or ``int8``.
        expected: type of each layer in the typed ONNX file.
        found: type of each layer of the network or engine.
        what: the file, for the message.
        exact: whether every layer must be there and be right; else the share of ``asked`` must be kept.

    Raises:
        ModelError: if a precision other than that asked for was found.
    """
    shares = shares_of(found)
    wrong = [name for name, kind in expected.items() if found.get(name) != kind] if exact else []
    meant = {name: kind for name, kind in expected.items() if exact or name in found}
    least = _LEAST_KEPT * shares_of(meant).get(asked, 0.0)
    strange = asked == "fp32" and set(shares) - {"fp32"}
    if asked not in expected.values() or shares.get(asked, 0.0) < least or not least or wrong or strange:
        raise _other_types(asked, found, wrong, what)


def check_engine(asked: str, expected: Mapping[str, str], found: Mapping[str, str], what: str) -> bool:
    """Compare what an engine's inspector told with what the file says, as far as it told anything.

    Returns:
        Whether it told enough: half of the layers that the file gives to ``asked``. Where it did not, nothing that it
        told speaks against the audit of the network, which binds the builder, since the network is strongly typed.

    Raises:
        ModelError: if a precision other than that asked for was found.
    """
    meant = [name for name, kind in expected.items() if kind == asked]
    if 2 * sum(name in found for name in meant) >= len(meant):
        check_types(asked, expected, found, what, exact=False)
        return True
    wrong = [name for name, kind in found.items() if expected[name] != kind]
    if 2 * len(wrong) > len(found):
        raise _other_types(asked, found, wrong, what)
    return False


def shares_of(types: Mapping[str, str]) -> dict[str, float]:
    """Share of the layers by type, the largest first."""
    counts = Counter(types.values())
    return {kind: count / counts.total() for kind, count in counts.most_common()}


def _other_types(asked: str, found: Mapping[str, str], wrong: Sequence[str], what: str) -> ModelError:
    seen = ", ".join(f"{kind} {share:.0%}" for kind, share in shares_of(found).items()) or "no layer with weights"
    places = f"; layers that differ from the file: {', '.join(wrong[:5])}" if wrong else ""
    return ModelError(
        f"{what} was to be {asked}, but its layers run in {seen}{places}; no engine was written: report this with "
        "what fcn-edge doctor prints"
    )


def _computes(layer: Mapping[str, Any]) -> bool:
    return layer.get("LayerType") not in ("Reformat", "NoOp", "Constant", "Shape", "Shuffle")


def _engine_type(layer: Mapping[str, Any]) -> str:
    """Type of an engine's layer: that of its weights, else of its first input."""
    weights = layer.get("Weights")
    texts = [str(weights.get("Type", ""))] if isinstance(weights, dict) else []
    for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]:
        if isinstance(tensor, dict):
            texts.append(f"{tensor.get('Datatype', '')} {tensor.get('Format/Datatype', '')}")
    words = (match[1] for text in texts for match in [_WORDS.search(text)] if match)
    return next((_short(word) for word in words), "")


def _short(name: str) -> str:
    return _NAMES.get(name.lower(), name.lower())
