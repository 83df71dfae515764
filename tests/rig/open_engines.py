"""Open engines one after the other and print what came of each: [exception, exit code, message], as one JSON list.

PYTHONPATH=SITE python open_engines.py FILE.engine... ; a FILE of the form NAME=VALUE sets an environment variable.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fcn_edge.errors import FcnEdgeError
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.engine_tensorrt import checked_plan, deserialized
from fcn_edge.runtime.tensorrt_library import open_runtime


def outcome(path: Path) -> list[object]:
    try:
        open_engine(path).close()
    except FcnEdgeError as exc:
        return [type(exc).__name__, exc.exit_code, str(exc)]
    return ["", 0, "opened"]


def loaded(path: Path) -> list[object]:
    """The same without asking for a GPU, up to what TensorRT says of the plan."""
    try:
        described, plan, trt = checked_plan(path)
        deserialized(trt, open_runtime(trt), plan, path, described)
    except FcnEdgeError as exc:
        return [type(exc).__name__, exc.exit_code, str(exc)]
    return ["", 0, "loaded"]


outcomes = []
for argument in sys.argv[1:]:
    name, is_setting, value = argument.partition("=")
    if is_setting:
        os.environ[name] = value
    elif argument.startswith("load:"):
        outcomes.append(loaded(Path(argument.removeprefix("load:"))))
    else:
        outcomes.append(outcome(Path(argument)))
sys.stdout.write(json.dumps(outcomes))
