"""Run fcn-edge commands one after the other in one process and print what each gave as JSON: TensorRT starts once.

PYTHONPATH=SITE python run_commands.py '[["build", ...], ...]'
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from fcn_edge.cli import main

results = []
for argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as exc:
            code = int(exc.code or 0)
    results.append({"code": code, "out": out.getvalue(), "err": " ".join(err.getvalue().split())})
sys.stdout.write(json.dumps(results))
