"""What ``fcn-edge build`` takes, as a request to the builder; prints nothing and imports it only when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import agreement, batches, drop, level, names, place, positive, size
from .errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from .export.build_request import BuildRequest
    from .export.sensitivity import LayerSensitivity

DEFAULT_DROP, DEFAULT_AGREEMENT = 0.01, 0.995
AUTO_KEEP = "auto"


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``build``."""
    parser.add_argument("models", metavar="MODEL", nargs="+", help=".pt or .onnx, or the name of a shipped model")
    parser.add_argument("-o", "--out", type=place, metavar="DIR", help="typed .onnx files and engines")
    parser.add_argument(
        "--precision", type=names, default=(), metavar="P,...", help="fp32, fp16, int8 (the file's own; fp32 of a .pt)"
    )
    parser.add_argument("--size", type=size, metavar="HxW", help="input size of a .pt (that of training)")
    parser.add_argument("--threads", type=positive, help="CPU threads of calibration and gate (physical cores)")
    parser.add_argument(
        "--force", action="store_true", help="build what is there again; replace files of the same name"
    )
    parser.add_argument("--json", action="store_true", help="print what was built as JSON")

    int8: Any = parser.add_argument_group("int8")
    int8.add_argument(
        "--calib", type=place, metavar="DIR", help="frames to calibrate with: a folder, a data set's train, a glob"
    )
    int8.add_argument(
        "--method",
        default="auto",
        help="of choosing ranges: auto, learned, minmax, percentile99.99, percentile99.9, entropy, mse",
    )
    int8.add_argument(
        "--keep",
        type=names,
        default=(),
        metavar="LAYERS",
        help="stay fp16: names, patterns; auto: until labels agree and, with a gate, the typed .onnx holds it",
    )
    int8.add_argument("--max-frames", type=positive, metavar="N", help="the most frames to calibrate with")
    int8.add_argument("--sensitivity", action="store_true", help="only print what each layer costs, with --calib")

    gate: Any = parser.add_argument_group("gate: an engine that fails is not kept, exit code 6")
    gate.add_argument("--gate", type=place, metavar="DIR", help="data set with masks: compare mIoU with that of fp32")
    gate.add_argument("--gate-split", default="val", metavar="NAME", help="part of it (%(default)s)")
    gate.add_argument("--gate-classes", type=names, default=(), metavar="A,B=C+D", help="choose or merge its classes")
    gate.add_argument("--gate-holdout", default="", metavar="SEQUENCE", help="its val becomes this sequence of train")
    gate.add_argument("--max-miou-drop", type=drop, metavar="X", help=f"with --gate ({DEFAULT_DROP})")
    gate.add_argument("--gate-frames", metavar="GLOB", help="frames without masks: compare labels with those of fp32")
    gate.add_argument(
        "--min-agreement",
        type=agreement,
        metavar="X",
        help=f"share of labels ({DEFAULT_AGREEMENT} with --gate-frames and --keep auto; with --gate none unless given)",
    )

    engine: Any = parser.add_argument_group("engine")
    engine.add_argument("--no-plugin", action="store_true", help="head of TensorRT's own layers, not the fused one")
    engine.add_argument("--plugin", type=place, metavar="LIB", help="the fused head's library (the package's own)")
    engine.add_argument("--workspace", type=positive, metavar="MiB", help="limit of the builder's scratch memory")
    engine.add_argument("--opt-level", type=level, metavar="0-5", help="5 builds longest and runs fastest")
    engine.add_argument("--timing-cache", type=place, metavar="FILE", help="keep timings here for the next build")
    engine.add_argument("--dynamic-batch", type=batches, metavar="MIN,OPT,MAX", help="several frames at once (1)")


def request_from_arguments(args: argparse.Namespace) -> BuildRequest:
    """The request that the arguments make.

    Raises:
        UsageError: if they contradict, or frames are asked for that are not there.
    """
    from .export.build_request import BuildRequest
    from .export.frame_files import frame_files
    from .export.gate import GateRequest
    from .export.model_source import Quantisation
    from .export.quantize import check_method
    from .runtime.sidecar import Options

    if args.out is None and not args.sensitivity:
        raise UsageError("build writes files and was told no place for them; give a folder with -o DIR")
    has_gate, has_gate_frames = args.gate is not None, args.gate_frames is not None
    if has_gate and has_gate_frames:
        raise UsageError("--gate and --gate-frames were both given; masks tell more: give --gate alone")
    if args.max_miou_drop is not None and not has_gate:
        raise UsageError("--max-miou-drop needs masks: give a data set with --gate DIR")
    if (args.gate_classes or args.gate_holdout) and not has_gate:
        raise UsageError("--gate-classes and --gate-holdout choose of a data set: give it with --gate DIR")
    auto_keep = AUTO_KEEP in args.keep
    if args.min_agreement is not None and not (has_gate or has_gate_frames or auto_keep):
        raise UsageError("--min-agreement needs frames to compare on: give --gate-frames GLOB or --gate DIR")
    check_method(args.method)
    if args.plugin and args.no_plugin:
        raise UsageError("--plugin and --no-plugin contradict; leave one out")
    gate = None
    least = DEFAULT_AGREEMENT if args.min_agreement is None else args.min_agreement
    if has_gate:
        limit = DEFAULT_DROP if args.max_miou_drop is None else args.max_miou_drop
        gate = GateRequest(
            data=args.gate,
            split=args.gate_split,
            classes=args.gate_classes,
            holdout=args.gate_holdout,
            max_miou_drop=limit,
            min_agreement=args.min_agreement,
        )
    elif has_gate_frames:
        gate = GateRequest(frames=frame_files(args.gate_frames), min_agreement=least)
    return BuildRequest(
        precisions=args.precision,
        size_hw=args.size,
        quantisation=Quantisation(
            frames=frame_files(args.calib) if args.calib is not None else (),
            method=args.method,
            keep=tuple(name for name in args.keep if name != AUTO_KEEP),
            min_agreement=least if auto_keep else None,
            max_frames=args.max_frames,
        ),
        gate=gate,
        use_plugin=not args.no_plugin,
        plugin=args.plugin,
        options=Options(workspace_mib=args.workspace, opt_level=args.opt_level, batch=args.dynamic_batch or (1, 1, 1)),
        timing_cache=args.timing_cache,
        threads=args.threads,
        force=args.force,
    )


def sensitivity_table(model: str, rows: tuple[LayerSensitivity, ...]) -> Table:
    """What each layer costs, for people: the share of labels that are not those of FP32."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("layer", title=f"{escape(model)}: labels that int8 changes")
    table.add_column("only this layer in int8", justify="right")
    table.add_column("all but this one", justify="right")
    for row in rows:
        table.add_row(row.layer, f"{1 - row.alone:.4%}", f"{1 - row.without:.4%}")
    return table
