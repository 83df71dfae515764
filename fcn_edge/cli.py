"""The command line ``fcn-edge``, and nothing but the command line: arguments in, results out, exit codes.

Progress and logs go to stderr, results to stdout; ``--json`` prints exactly one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import __version__
from .errors import FcnEdgeError, GateError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .dataset import Dataset
    from .runtime.engine import Engine

INTERRUPTED = 130
MAX_SIDE = 8192


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``--help`` and wrong usage end in SystemExit as argparse does."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = args.command
    try:
        return command(args) or 0
    except FcnEdgeError as exc:
        print(f"fcn-edge: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("fcn-edge: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fcn-edge", description="Semantic segmentation on edge devices.")
    parser.add_argument("--version", action="version", version=f"fcn-edge {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_doctor(commands)
    _add_demo(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_export(commands)
    _add_stream(commands)
    _add_bench(commands)
    _add_inspect(commands)
    return parser


# ---------------------------------------------------------------------------------------------------------- doctor


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="what this machine has, and how to close each gap")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(command=_doctor)


def _doctor(args: argparse.Namespace) -> None:
    from .doctor import examine

    findings = examine()
    if args.json:
        _print_json({"findings": findings})
        return
    from rich.table import Table

    table = Table("", "what", "seen", "to close the gap")
    for finding in findings:
        table.add_row("[green]yes" if finding.found else "[yellow]no", finding.name, finding.detail, finding.remedy)
    _print_table(table)


# ------------------------------------------------------------------------------------------------------------ demo


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="the whole path with no data, no network and no GPU")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), metavar="DIR", help="results (%(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train (%(default)s)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the street and of the training (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier demo left in DIR")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_demo)


def _demo(args: argparse.Namespace) -> None:
    from .demo import run_demo

    report = run_demo(args.out, minutes=args.minutes, threads=args.threads, seed=args.seed, force=args.force)
    if args.json:
        _print_json(report)
    else:
        print((args.out / "report.md").read_text())


# ----------------------------------------------------------------------------------------------------------- train


# ------------------------------------------------------------------------------------------------------------ eval


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="mIoU, per-class IoU and pixel accuracy of a model")
    parser.add_argument("model", metavar="MODEL", help=".pt, .onnx, .engine, or the name of a shipped model")
    _add_data(parser, required=True)
    parser.add_argument("--threads", type=_positive, help="CPU threads (all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(command=_eval)


def _add_data(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="DIR", help="images and masks")
    parser.add_argument("--split", default="val", help="which part of the data (%(default)s)")
    parser.add_argument("--holdout", default="", metavar="SEQUENCE", help="val becomes this sequence of train")
    parser.add_argument("--classes", type=_names, default=(), metavar="A,B=C+D", help="choose or merge classes")


def _eval(args: argparse.Namespace) -> None:
    from .benchmarks.accuracy import evaluate, evaluation_table

    dataset = _open_dataset(args)
    with _open_engine(args.model, args.threads) as engine, _progress("evaluating") as advance:
        result = evaluate(engine, dataset, args.split, on_progress=advance)
    if args.json:
        _print_json(result)
    else:
        _print_table(evaluation_table(result))


# ---------------------------------------------------------------------------------------------------------- export


def _add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="a checkpoint as one typed ONNX file, verified against torch")
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a .pt file that train wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="(%(default)s)")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="frames to calibrate int8 with")
    parser.add_argument("--size", type=_size, metavar="HxW", help="input size (that of training)")
    parser.add_argument("--force", action="store_true", help="replace FILE.onnx")
    parser.set_defaults(command=_export)


def _export(args: argparse.Namespace) -> None:
    if args.precision != "fp32":
        raise UsageError(f"this release exports fp32 only, not {args.precision}; leave --precision out")
    from .export.to_onnx import onnx_from_checkpoint

    print(onnx_from_checkpoint(args.checkpoint, args.out, args.size, force=args.force))


# ---------------------------------------------------------------------------------------------------------- stream


def _add_stream(commands: Any) -> None:
    parser = commands.add_parser("stream", help="segment a camera, a video, images or a drawn street")
    parser.add_argument("model", metavar="MODEL", help=".onnx, .pt, .engine, or the name of a shipped model")
    parser.add_argument("source", metavar="SOURCE", help="0, csi://0, rtsp://..., FILE.mp4, a folder, a glob, "
                        "synthetic://street")
    parser.add_argument("sink", metavar="SINK", nargs="?", default="null://", help="FILE.mp4, a folder, null:// (default)")
    parser.add_argument("--show", action="store_true", help="also show a window; q ends")
    parser.add_argument("--opacity", type=_share, default=0.5, help="of the overlay, 0 to 1 (%(default)s)")
    parser.add_argument("--mode", choices=("overlay", "mask", "both"), default="overlay", help="(%(default)s)")
    parser.add_argument("--no-legend", action="store_true", help="leave the legend out")
    parser.add_argument("--max-frames", type=_positive, metavar="N", help="end after N frames")
    parser.add_argument("--threads", type=_positive, help="CPU threads (all cores)")
    parser.add_argument("--force", action="store_true", help="replace SINK")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(command=_stream)


# ----------------------------------------------------------------------------------------------------------- bench


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser("bench", help="latency percentiles by stage, throughput, memory, mIoU")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="models to measure side by side")
    _add_data(parser, required=False)
    parser.add_argument("--duration", type=_seconds, default=10.0, metavar="10s", help="for each model (%(default)s s)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (all cores)")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="bench.json, bench.md and plots")
    parser.add_argument("--force", action="store_true", help="replace what lies in DIR")
    parser.add_argument("--json", action="store_true", help="print bench.json")
    parser.set_defaults(command=_bench)


# --------------------------------------------------------------------------------------------------------- inspect


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="contract, precision by layer, hashes and provenance of a file")
    parser.add_argument("file", type=Path, metavar="FILE", help=".pt, .onnx or .engine")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a listing")
    parser.set_defaults(command=_inspect)


# ---------------------------------------------------------------------------------------------- shared by commands


def _open_dataset(args: argparse.Namespace) -> Dataset:
    from .dataset import open_dataset

    return open_dataset(args.data, classes=args.classes, holdout=args.holdout)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
    size_hw = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in size_hw):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected HEIGHTxWIDTH of 1 to {MAX_SIDE}, such as 360x480")
    return size_hw


def _positive(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected a whole number from 1")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not usable; expected a number from 0 to 1")
    return value


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)(ms|s|m)?", text)
    value = float(match[1]) * {"ms": 1e-3, "s": 1, "m": 60, None: 1}[match[2]] if match else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no duration; expected something like 10s, 500ms or 2m")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_table(table: RenderableType) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)
