"""Parse an ONNX file with TensorRT, build an engine and print one JSON object about both; runs in its own process.

PYTHONPATH=SITE python build_engine.py FILE.onnx [PLUGIN.so]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorrt as trt

messages = []


class Log(trt.ILogger):
    def __init__(self) -> None:
        super().__init__()

    def log(self, severity: trt.ILogger.Severity, text: str) -> None:
        if severity <= trt.ILogger.WARNING:
            messages.append(f"{severity.name}: {text}")


log = Log()
if len(sys.argv) > 2 and trt.get_plugin_registry().load_library(sys.argv[2]) is None:
    raise SystemExit(f"{sys.argv[2]} is no plugin library")
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
parsed = parser.parse(Path(sys.argv[1]).read_bytes())
config = builder.create_builder_config()
inputs = [network.get_input(index) for index in range(network.num_inputs)]
if dynamic := [tensor for tensor in inputs if tensor.shape[0] == -1]:
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        profile.set_shape(tensor.name, *((batch, *tensor.shape[1:]) for batch in (1, 2, 4)))
    config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config) if parsed else None


def described(tensor: trt.ITensor) -> list[object]:
    return [tensor.name, tensor.dtype.name, list(tensor.shape)]


layers = [network.get_layer(index) for index in range(network.num_layers)]
report = {
    "version": trt.__version__,
    "parsed": parsed,
    "errors": [parser.get_error(index).desc() for index in range(parser.num_errors)],
    "messages": messages,
    "inputs": [described(network.get_input(index)) for index in range(network.num_inputs)],
    "outputs": [described(network.get_output(index)) for index in range(network.num_outputs)],
    "layers": [[layer.name, layer.type.name, layer.get_output(0).dtype.name] for layer in layers],
    "plan_bytes": plan.nbytes if plan is not None else 0,
}
sys.stdout.write(json.dumps(report))
