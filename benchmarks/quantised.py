"""What INT8 costs on a sequence that nothing was trained on: FP32, calibrated, learned; knows nothing about time.

Run as ``python -m fcn_edge.benchmarks.quantised``. Each checkpoint is exported, quantised and evaluated by what is
behind ``fcn-edge export`` and ``fcn-edge eval``, in the CPU engine; ``CKPT@HxW`` is exported at that input size. Ranges
are measured on the training images without the sequence, so that neither weights nor ranges have seen it. Where the
data have a ``val`` of their own, which nothing was trained on either, figures on it stand beside.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..dataset import Dataset, open_dataset
from ..errors import DataError, FcnEdgeError, UsageError
from ..export.facts import facts_from_file
from ..export.gate import GateRequest, compare, open_gate
from ..files import write_atomically
from ..runtime.engine import open_engine
from ..size_text import size_from_text
from .accuracy import evaluate
from .quantised_table import Run, markdown_from_record
from .record import held_out_record, passes, write_record
from .report import progress_on_stderr, told

if TYPE_CHECKING:
    from ..export.quantize import TypedReport

BENCHMARK = "quantised"
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trained:
    """A checkpoint and what it says of itself: ``facts`` as :func:`fcn_edge.export.facts.facts_from_file` has them.

    ``size_hw`` is the (height, width) at which it is exported.
    """

    path: Path
    facts: dict[str, Any]
    size_hw: tuple[int, int]

    @property
    def model(self) -> str:
        """The contract's name of the architecture."""
        return str(self.facts["contract"]["model"])

    @property
    def config(self) -> dict[str, Any]:
        """The options of its training."""
        found: dict[str, Any] = self.facts["training"]["config"]
        return found

    @property
    def start_sha256(self) -> str:
        """Of the file that its training started from; empty if it does not say."""
        return str(self.facts["training"]["provenance"].get("init_sha256", ""))

    def entry(self) -> dict[str, Any]:
        """What a record says of it."""
        training = self.facts["training"]
        return {
            "seed": self.config["seed"],
            "checkpoint_sha256": self.facts["sha256"],
            "epochs": passes(training),
            "minutes": training["seconds"] / 60,
        }


def open_trained(path: Path, holdout: str, qat: bool = False) -> Trained:
    """Read what a checkpoint says of itself.

    Args:
        path: a ``.pt`` file that training wrote; behind it may stand ``@HxW``, the size to export it at.
        holdout: the sequence that is to judge it.
        qat: whether it is expected to be one of quantisation-aware training.

    Raises:
        UsageError: if it is no ``.pt`` file, is of the other kind, or was trained on the sequence.
        ModelError: if it is missing or damaged.
        MissingError: if torch is not installed.
    """
    path, size = _path_and_size(path)
    if path.suffix != ".pt":
        raise UsageError(f"{path} does not end in .pt; give checkpoints that fcn-edge train wrote")
    facts = facts_from_file(path)
    said = f"the size behind {path} is '{size}'"
    height, width = size_from_text(size, said) if size else facts["contract"]["size_hw"]
    found = Trained(path, facts, (height, width))
    if found.config["qat"] != qat:
        raise UsageError(
            f"{path} was trained with{'' if found.config['qat'] else 'out'} --qat; give checkpoints in floating point "
            "first, and behind --qat those that were fine-tuned from them"
        )
    # With a holdout, val is the holdout: who trained on both splits trained on all of it.
    if found.config["holdout"] != holdout or "val" in found.config["splits"]:
        how = f"--holdout {found.config['holdout'] or 'nothing'} on {' + '.join(found.config['splits'])}"
        raise UsageError(
            f"{path} was trained with {how}, so it may have seen {holdout}, which is to judge it; train it with "
            f"--holdout {holdout}, on train alone"
        )
    return found


def judged_record(
    benchmark: str,
    checkpoints: Sequence[Path],
    data: Path,
    holdout: str,
    scores: Callable[[Trained, Dataset], dict[str, Any]],
) -> dict[str, Any]:
    """The record of a benchmark: for each checkpoint what it says of itself and ``scores`` on the held-out sequence.

    Raises:
        FcnEdgeError: as :func:`open_trained`, :func:`fcn_edge.dataset.open_dataset` and ``scores`` do.
    """
    runs = []
    for path in checkpoints:
        trained = open_trained(path, holdout)
        dataset = open_dataset(data, trained.config["classes"], holdout)
        runs.append({"model": trained.model, **trained.entry(), **scores(trained, dataset)})
    return held_out_record(benchmark, data, holdout, runs)


def _path_and_size(path: Path) -> tuple[Path, str]:
    """``FILE.pt@HxW`` taken apart; the size is empty where there is none."""
    name, _, size = str(path).rpartition("@")
    return (Path(name), size) if name.endswith(".pt") else (path, "")


def paired(checkpoints: Sequence[Trained], qat: Sequence[Trained]) -> list[tuple[Trained, Trained | None]]:
    """Each checkpoint with the one fine-tuned from it, or None: which that is says its provenance, in any order.

    Raises:
        UsageError: if a model has two checkpoints of a seed at one size, or one was fine-tuned from none of them.
    """
    seen: dict[tuple[str, int, tuple[int, int]], Path] = {}
    for trained in checkpoints:
        key = (trained.model, trained.config["seed"], trained.size_hw)
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {trained.path} are both {key[0]} with seed {key[1]}; give one of them, so that each "
                "seed counts once"
            )
        seen[key] = trained.path
    left = list(qat)
    pairs: list[tuple[Trained, Trained | None]] = []
    for trained in checkpoints:
        tuned = next((one for one in left if one.start_sha256 == trained.facts["sha256"]), None)
        pairs.append((trained, tuned))
        if tuned:
            left.remove(tuned)
    if left:
        raise UsageError(
            f"{left[0].path} ({left[0].model}) has no checkpoint to be compared with: it started from sha256 "
            f"{left[0].start_sha256[:12] or '(it does not say)'}, which none has that is left; give the one that it "
            "was fine-tuned from as well"
        )
    return pairs


def int8_from(
    trained: Trained, out: Path, calib: Sequence[Path] | None, threads: int | None, on_step: OnStep | None
) -> tuple[Path, TypedReport]:
    """Export a checkpoint and quantise it; what the FP32 file is called, beside ``out``, and how ``out`` was made.

    Args:
        trained: the checkpoint.
        out: the INT8 ``.onnx`` file to write.
        calib: image files to measure ranges on; None: the ranges are those that the checkpoint has learned.
        threads: of the CPU engine that judges ranges.
        on_step: called with the step's name, the number done and the number of all.

    Raises:
        FcnEdgeError: as :func:`fcn_edge.export.to_onnx.onnx_from_checkpoint` and
            :func:`fcn_edge.export.quantize.typed_onnx` raise them.
    """
    from ..export.quantize import LEARNED, typed_onnx
    from ..export.to_onnx import onnx_from_checkpoint

    fp32 = onnx_from_checkpoint(trained.path, out.with_name(f"{out.stem}-fp32.onnx"), trained.size_hw)
    if calib is None:
        return fp32, typed_onnx(fp32, out, "int8", method=LEARNED, threads=threads)
    return fp32, typed_onnx(fp32, out, "int8", calib=calib, threads=threads, on_progress=on_step)


def run_of(
    trained: Trained,
    tuned: Trained | None,
    dataset: Dataset,
    val: Dataset | None,
    threads: int | None,
    on_step: OnStep,
) -> Run:
    """Quantise and evaluate a checkpoint and, if there is one, that which was fine-tuned from it.

    Args:
        trained: in floating point.
        tuned: fine-tuned from it with quantisation in the loop, or None.
        dataset: opened with the holdout and the checkpoint's classes.
        val: the same opened without the holdout, for its own ``val``; None: there is none.
        threads: of the CPU engine; None: one for each physical core.
        on_step: called with the step's name, the number done and the number of all.

    Returns:
        An entry of the record's ``runs``: ``model``, ``params``, ``size_hw``, ``gmacs``, what :meth:`Trained.entry`
        says, and for ``fp32``, ``int8_ptq`` and ``int8_qat`` (None without) ``miou``, ``pixel_accuracy``,
        ``per_class`` and ``val``, the same three there (None without); for the last two ``agreement`` and
        ``agreement_inside`` (away from borders) with the labels of ``fp32``, ``method``,
        ``kept`` and ``layers`` (convolutions in FP16 and in INT8), ``calibration_frames``, ``held_out_frames``,
        ``calibration_sha256``; for the last besides its own :meth:`Trained.entry` and ``fp32``, its scores unquantised.

    Raises:
        DataError: if no pixel of the masks counts.
        FcnEdgeError: as :func:`int8_from`, :func:`.accuracy.evaluate` and :func:`fcn_edge.export.gate.compare` do.
    """
    calib = [sample.image for sample in dataset.samples("train")]
    run = {"model": trained.model, **trained.entry(), "params": trained.facts["params"]}
    with tempfile.TemporaryDirectory() as folder:
        fp32, report = int8_from(trained, Path(folder) / "ptq.onnx", calib, threads, on_step)
        run |= {"size_hw": list(trained.size_hw), "gmacs": facts_from_file(fp32)["gmacs"]}
        run["fp32"] = _scores(fp32, dataset, val, threads, on_step)
        run["int8_ptq"] = _int8_scores(report, fp32, dataset, val, threads, on_step)
        run["int8_qat"] = None
        if tuned:
            tuned = replace(tuned, size_hw=trained.size_hw)
            tuned_fp32, report = int8_from(tuned, Path(folder) / "qat.onnx", None, threads, on_step)
            scores = _int8_scores(report, fp32, dataset, val, threads, on_step)
            run["int8_qat"] = {**tuned.entry(), **scores, "fp32": _scores(tuned_fp32, dataset, val, threads, on_step)}
    return run


def _scores(model: Path, dataset: Dataset, val: Dataset | None, threads: int | None, on_step: OnStep) -> dict[str, Any]:
    with open_engine(model, threads=threads) as engine:
        found = evaluate(engine, dataset, on_progress=partial(on_step, "evaluating"))
        beside = evaluate(engine, val, on_progress=partial(on_step, "evaluating on val")) if val else None
    if found["miou"] is None:
        raise DataError(f"no pixel of the masks of {dataset.holdout} in {dataset.root} counts; hold out another one")
    return {**_kept(found), "val": _kept(beside) if beside else None}


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("miou", "pixel_accuracy", "per_class")}


def _int8_scores(
    report: TypedReport, fp32: Path, dataset: Dataset, val: Dataset | None, threads: int | None, on_step: OnStep
) -> dict[str, Any]:
    scores = _scores(report.path, dataset, val, threads, on_step)
    with open_engine(fp32, threads=threads) as reference, open_engine(report.path, threads=threads) as engine:
        images = tuple(sample.image for sample in dataset.samples("val"))
        frames = open_gate(GateRequest(frames=images), engine.contract)
        labels = compare(reference, engine, frames, engine.backend, partial(on_step, "comparing labels"))
    return {
        **scores,
        "agreement": labels.agreement,
        "agreement_inside": labels.agreement_inside,
        "method": report.method,
        "kept": list(report.kept),
        "layers": list(report.layers),
        "calibration_frames": report.calibration_frames,
        "held_out_frames": report.held_out_frames,
        "calibration_sha256": report.calibration_sha256,
    }


def bench_quantised(
    checkpoints: Sequence[Path],
    qat: Sequence[Path],
    data: Path,
    holdout: str,
    threads: int | None,
    on_step: OnStep,
) -> dict[str, Any]:
    """Measure checkpoints of one or several models and seeds; gives the record.

    Raises:
        FcnEdgeError: as :func:`open_trained`, :func:`paired`, :func:`fcn_edge.dataset.open_dataset` and :func:`run_of`.
    """
    trained = [open_trained(path, holdout) for path in checkpoints]
    pairs = paired(trained, [open_trained(path, holdout, qat=True) for path in qat])
    runs = []
    for index, (one, tuned) in enumerate(pairs):
        on_step("checkpoints", index, len(pairs))
        dataset, own = open_dataset(data, one.config["classes"], holdout), open_dataset(data, one.config["classes"])
        val = own if own.splits.get("val") else None  # with a holdout, val is the holdout
        runs.append(run_of(one, tuned, dataset, val, threads, on_step))
    on_step("checkpoints", len(pairs), len(pairs))
    record = held_out_record(BENCHMARK, data, holdout, runs)
    record["data"]["images"] = len(dataset.samples("val"))
    if val:
        record["data"]["val_images"] = len(val.samples("val"))
    return record


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run wrote.

    Raises:
        UsageError: if it cannot be read or is no record of this benchmark.
    """
    remedy = "give a file that this benchmark wrote with -o"
    try:
        payload = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as exc:
        raise UsageError(f"record {path} cannot be read ({exc}); {remedy}") from exc
    if payload.get("benchmark") != BENCHMARK:
        raise UsageError(f"record {path} is of benchmark {payload.get('benchmark')}, not of {BENCHMARK}; {remedy}")
    return payload


def _payload(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments ask for: read, or measured and written."""
    if args.source:
        if args.checkpoints or args.qat or args.data or args.record:
            raise UsageError("--from prints what was measured; leave checkpoints, --qat, --data and -o out")
        return read_record(args.source)
    if not (args.checkpoints and args.data and args.holdout and args.record):
        raise UsageError("nothing to measure; give CKPT... --data DIR --holdout SEQUENCE -o FILE.json, or --from FILE")
    with progress_on_stderr() as show:
        payload = bench_quantised(args.checkpoints, args.qat, args.data, args.holdout, args.threads, show)
    write_record(args.record, payload)
    return payload


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or print a record again; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.quantised", description=__doc__)
    parser.add_argument(
        "checkpoints", nargs="*", type=Path, metavar="CKPT[@HxW]", help=".pt, trained without the holdout"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="images and masks")
    parser.add_argument("--holdout", default="", metavar="SEQUENCE", help="sequence of train that judges")
    parser.add_argument(
        "--qat", nargs="+", type=Path, default=[], metavar="CKPT", help="fine-tuned with --qat from some of CKPT"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (one for each physical core)")
    parser.add_argument("-o", dest="record", type=Path, metavar="FILE.json", help="write a record with machine facts")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE.json", help="print the table of a record")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, not to stdout")
    args = parser.parse_args(arguments)
    try:
        text = markdown_from_record(_payload(args))
        if args.markdown:
            write_atomically(args.markdown, text.encode())
        else:
            sys.stdout.write(text)
    except FcnEdgeError as exc:
        return told(exc)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
