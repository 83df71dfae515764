"""What a larger input gives without training again, on a sequence that the network has not seen; knows nothing of time.

Run as ``python -m fcn_edge.benchmarks.input_size``. Each checkpoint is exported at each size, as ``fcn-edge export
--size`` does, and evaluated in the CPU engine at the labels' own resolution, as ``fcn-edge eval`` does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..dataset import Dataset
from ..errors import FcnEdgeError
from ..export.facts import facts_from_file
from ..runtime.engine import open_engine
from .accuracy import evaluate
from .quantised import OnStep, Trained, judged_record
from .record import write_record
from .report import markdown_table, progress_on_stderr, told


def scores_by_size(
    trained: Trained, scales: Sequence[float], dataset: Dataset, threads: int | None, on_step: OnStep
) -> list[dict[str, Any]]:
    """Scores of a checkpoint at each size that frames are brought to.

    Args:
        trained: learned without the sequence.
        scales: of the input's sides, in units of those that the checkpoint is made for; the sides become whole 8s.
        dataset: opened with that sequence held out.
        threads: of the CPU engine; None: one for each physical core.
        on_step: called with the step's name, the number done and the number of all.

    Returns:
        For each scale ``size_hw``, ``gmacs``, ``miou``, ``pixel_accuracy`` and ``per_class``.

    Raises:
        FcnEdgeError: as export and evaluation raise them, such as a UsageError for a size that cannot be.
    """
    from ..export.to_onnx import onnx_from_checkpoint

    found = []
    own_height, own_width = trained.facts["contract"]["size_hw"]
    for scale in scales:
        size_hw = (8 * round(own_height * scale / 8), 8 * round(own_width * scale / 8))
        with tempfile.TemporaryDirectory() as folder:
            model = onnx_from_checkpoint(trained.path, Path(folder) / "model.onnx", size_hw)
            name = f"{trained.model} at {size_hw[0]}x{size_hw[1]}"
            with open_engine(model, threads=threads) as engine:
                scores = evaluate(engine, dataset, on_progress=partial(on_step, name))
            gmacs = facts_from_file(model)["gmacs"]
        kept = {key: scores[key] for key in ("miou", "pixel_accuracy", "per_class")}
        found.append({"size_hw": list(size_hw), "gmacs": gmacs, **kept})
    return found


def markdown_from_record(payload: dict[str, Any]) -> str:
    """A row for each checkpoint, with mIoU (GMACs) at each size."""
    runs = payload["runs"]
    header = ["model", "epochs", *("x".join(map(str, entry["size_hw"])) for entry in runs[0]["sizes"])]
    rows = [
        [run["model"], str(run["epochs"])] + [f"{one['miou']:.3f} ({one['gmacs']:.2f})" for one in run["sizes"]]
        for run in runs
    ]
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.input_size", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CKPT", help=".pt, trained without the sequence")
    parser.add_argument(
        "--scales", nargs="+", type=float, required=True, metavar="X", help="of the input's sides; 1 is the model's own"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--holdout", required=True, metavar="SEQUENCE")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (one for each physical core)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args(arguments)
    try:
        with progress_on_stderr() as show:
            payload = judged_record(
                "input_size",
                args.checkpoints,
                args.data,
                args.holdout,
                lambda trained, dataset: {"sizes": scores_by_size(trained, args.scales, dataset, args.threads, show)},
            )
        write_record(args.out, payload)
    except FcnEdgeError as exc:
        return told(exc)
    sys.stdout.write(markdown_from_record(payload) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
