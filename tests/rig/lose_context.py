"""Make a GPU's context unusable by letting an engine write to an address that is none, and print what is said then.

PYTHONPATH=SITE python lose_context.py FILE.engine
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fcn_edge.errors import EngineError
from fcn_edge.runtime.engine_tensorrt import TensorRtEngine

said = []
with TensorRtEngine(Path(sys.argv[1]), use_graph=False) as engine:
    frame = np.zeros((*engine.contract.size_hw, 3), np.uint8)
    for slot in engine._slots:
        slot._labels.address = 1 << 20
    for _ in range(2):
        try:
            engine.infer(frame)
        except EngineError as exc:
            said.append(str(exc))
sys.stdout.write(json.dumps(said))
