"""Build an engine of an exported ONNX file with TensorRT, no GPU needed, and write it with its sidecar.

PYTHONPATH=SITE python write_engine.py FILE.onnx FILE.engine [PLUGIN]
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from fcn_edge.export.to_engine import EngineBuilder
from fcn_edge.runtime.onnx_file import split_onnx
from fcn_edge.runtime.sidecar import Options, Precision, Sidecar, write_sidecar

onnx_path, engine_path = Path(sys.argv[1]), Path(sys.argv[2])
builder = EngineBuilder((lambda: Path(sys.argv[3])) if len(sys.argv) > 3 else None)
built = builder.build(onnx_path, "fp32", Options(opt_level=0))
engine_path.write_bytes(built.plan)
write_sidecar(
    engine_path,
    Sidecar(
        contract=split_onnx(onnx_path).contract,
        precision=Precision(asked="fp32", found=built.found, audited=built.audited),
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        onnx=onnx_path.name,
        onnx_sha256=hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        tensorrt=builder.library,
        cuda="",
        gpu=builder.gpu,
        plugin=builder.plugin,
        options=Options(opt_level=0),
    ),
)
