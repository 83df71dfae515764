"""The command line ``fcn-edge``, and nothing but the command line: arguments in, results out, exit codes.

Progress and logs go to stderr, results to stdout; ``--json`` prints exactly one JSON object on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import __version__
from .arguments import CommandParser, DiscreetParser, add_options, names, place, positive, seconds, size
from .build_command import add_build_arguments, request_from_arguments, sensitivity_table
from .errors import SourceError, UsageError
from .exit_code import INTERRUPTED, exit_code_of, note
from .extras import needs
from .shipped import model_file
from .stream_command import add_stream_arguments, stream_from_arguments
from .training.config import AugmentConfig, TrainConfig, config_from_toml
from .training_bar import training_progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .dataset import Dataset
    from .runtime import StreamSummary
    from .runtime.engine import Engine


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``--help`` and wrong usage end in SystemExit as argparse does."""
    return exit_code_of(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int | None:
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = args.command
    try:
        Path.cwd()
    except FileNotFoundError as exc:
        raise UsageError("the current folder was removed; cd to one that exists") from exc
    return command(args)


def _parser() -> argparse.ArgumentParser:
    parser = DiscreetParser(prog="fcn-edge", description="Semantic segmentation on edge devices.")
    parser.add_argument("--version", action="version", version=f"fcn-edge {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for add in (
        _add_doctor, _add_demo, _add_train, _add_eval, _add_export, _add_build, _add_stream, _add_bench, _add_inspect,
    ):  # fmt: skip
        add(commands)
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
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("", "what", "seen", Column("to close the gap", overflow="fold"))  # commands are to be copied whole
    for finding in findings:
        mark = "[green]yes" if finding.found else "[yellow]no"
        table.add_row(mark, finding.name, escape(finding.detail), escape(finding.remedy))  # fcn-edge[gpu] is no markup
    _print_table(table)


# ------------------------------------------------------------------------------------------------------------ demo


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="the whole path with no data, no network and no GPU")
    parser.add_argument("--out", type=place, default=Path("demo_out"), metavar="DIR", help="results (%(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train (%(default)s)")
    parser.add_argument("--threads", type=positive, help="CPU threads (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the street and of the training (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier demo left in DIR")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_demo)


def _demo(args: argparse.Namespace) -> None:
    with needs("cpu,train", "demo"):
        from .demo import run_demo

    with training_progress() as (show, _):
        report = run_demo(
            args.out,
            minutes=args.minutes,
            threads=args.threads,
            seed=args.seed,
            force=args.force,
            on_step=note,
            on_progress=show,
        )
    if args.json:
        _print_json(report)
    else:
        print((args.out / "report.md").read_text())


# ----------------------------------------------------------------------------------------------------------- train


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a network on a folder of images and masks")
    parser.add_argument("--config", type=place, metavar="FILE", help="TOML file with any of these options")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt in --out with its options")
    parser.add_argument("--force", action="store_true", help="replace an earlier run in --out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_options(parser.add_argument_group("options, also keys of --config"), TrainConfig)
    add_options(
        parser.add_argument_group("augmentation, also keys of [augment] in --config"), AugmentConfig, "augment."
    )
    parser.set_defaults(command=_train)


def _train(args: argparse.Namespace) -> None:
    options = (*TrainConfig.__struct_fields__, *(f"augment.{name}" for name in AugmentConfig.__struct_fields__))
    overrides = {name: value for name, value in vars(args).items() if name in options}
    config = None if args.resume else config_from_toml(args.config, overrides)
    with needs("train", "train"):
        from .training.folder import config_resumed
        from .training.loop import train

    config = config or config_resumed(args.config, overrides)
    with training_progress() as (show, show_read):
        result = train(config, show, resume=args.resume, force=args.force, on_read=show_read)
    if args.json:
        _print_json(
            {
                "best": str(result.best),
                "last": str(result.last),
                "best_miou": result.best_miou,
                "miou": result.miou,
                "epochs": result.epochs,
                "steps": result.steps,
                "seconds": result.seconds,
            }
        )
    else:
        print(result.best)


# ------------------------------------------------------------------------------------------------------------ eval


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="mIoU, per-class IoU and pixel accuracy of a model")
    parser.add_argument("model", metavar="MODEL", help=".pt, .onnx, .engine, or the name of a shipped model")
    _add_data(parser, required=True)
    parser.add_argument("--threads", type=positive, help="CPU threads (one for each physical core)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(command=_eval)


def _add_data(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--data", type=place, required=required, metavar="DIR", help="images and masks")
    parser.add_argument("--split", default="val", help="which part of the data (%(default)s)")
    parser.add_argument("--holdout", default="", metavar="SEQUENCE", help="val becomes this sequence of train")
    parser.add_argument("--classes", type=names, default=(), metavar="A,B=C+D", help="choose or merge classes")


def _eval(args: argparse.Namespace) -> None:
    from .benchmarks.accuracy import evaluate, evaluation_table
    from .benchmarks.engines import open_any_engine
    from .benchmarks.report import progress_on_stderr

    with open_any_engine(args.model, threads=args.threads) as engine, progress_on_stderr() as show:
        dataset = _open_dataset(args, engine)
        result = evaluate(engine, dataset, args.split, lambda done, total: show("evaluating", done, total), args.model)
    if args.json:
        _print_json(result)
    else:
        _print_table(evaluation_table(result))


# ---------------------------------------------------------------------------------------------------------- export


def _add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="a checkpoint as one typed ONNX file, verified against torch")
    parser.add_argument("checkpoint", type=place, metavar="CKPT", help="a .pt file that train wrote")
    parser.add_argument("-o", "--out", type=place, required=True, metavar="FILE.onnx")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="(%(default)s)")
    parser.add_argument(
        "--calib", type=place, metavar="DIR", help="frames for int8: a folder, a data set's train, a glob"
    )
    parser.add_argument("--size", type=size, metavar="HxW", help="input size (that of training)")
    parser.add_argument("--force", action="store_true", help="replace FILE.onnx")
    parser.set_defaults(command=_export)


def _export(args: argparse.Namespace) -> None:
    from .benchmarks.report import progress_on_stderr

    with needs("train", "export"):
        from .export.typed_file import typed_from_checkpoint

    with progress_on_stderr() as show:
        written = typed_from_checkpoint(
            args.checkpoint, args.out, args.precision, args.size, calib=args.calib, force=args.force, on_progress=show
        )
    print(written)  # behind the bar, which takes what is printed beside it to its own stream


# ----------------------------------------------------------------------------------------------------------- build


def _add_build(commands: Any) -> None:
    parser = commands.add_parser("build", help="typed ONNX files and, where TensorRT is, engines, gated against FP32")
    add_build_arguments(parser)
    parser.set_defaults(command=_build)


def _build(args: argparse.Namespace) -> None:
    from .benchmarks.report import progress_on_stderr

    with needs("cpu", "build"):
        from .export.build import build, sensitivity

    request = request_from_arguments(args)
    if args.sensitivity:
        with progress_on_stderr() as show:
            found = sensitivity(args.models, request, show)
        if args.json:
            _print_json({"models": [{"model": model, "layers": rows} for model, rows in found]})
        else:
            for model, rows in found:
                _print_table(sensitivity_table(model, rows))
        return
    with progress_on_stderr() as show:
        results = build(args.models, args.out, request, show, lambda text: note(f"fcn-edge: {text}"))
    if args.json:
        _print_json({"results": results})
    else:
        print("\n".join(path for result in results for path in (result.onnx, result.engine) if path))


# ---------------------------------------------------------------------------------------------------------- stream


def _add_stream(commands: Any) -> None:
    parser = commands.add_parser("stream", help="segment a camera, a video, images or a drawn street")
    add_stream_arguments(parser)
    parser.set_defaults(command=_stream)


def _stream(args: argparse.Namespace) -> int:
    def tell(summary: StreamSummary) -> None:
        if args.json:
            _print_json(summary.to_dict())
        else:
            print(summary, flush=True)

    try:
        summary = stream_from_arguments(args, note, tell)
    except SourceError as exc:
        if args.json and exc.summary is not None:
            _print_json(exc.summary)
        raise
    return {"signal": INTERRUPTED, "source_lost": SourceError.exit_code}.get(summary.ended, 0)


# ----------------------------------------------------------------------------------------------------------- bench


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser("bench", help="latency percentiles by stage, throughput, memory, mIoU")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="models to measure side by side")
    _add_data(parser, required=False)
    parser.add_argument("--duration", type=seconds, default=10.0, metavar="10s", help="for each model (%(default)s s)")
    parser.add_argument("--threads", type=positive, help="CPU threads (one for each physical core)")
    parser.add_argument("-o", "--out", type=place, metavar="DIR", help="bench.json, bench.md and plots")
    parser.add_argument("--force", action="store_true", help="replace what lies in DIR")
    parser.add_argument("--json", action="store_true", help="print bench.json")
    parser.set_defaults(command=_bench)


def _bench(args: argparse.Namespace) -> None:
    from .benchmarks.bench import bench_models
    from .benchmarks.report import bench_table, check_folder, doubts, progress_on_stderr, write_report

    if args.out:
        check_folder(args.out, args.force)
    with progress_on_stderr() as show:
        payload = bench_models(
            args.models,
            open_data=(lambda engine: _open_dataset(args, engine)) if args.data else None,
            split=args.split,
            duration_s=args.duration,
            threads=args.threads,
            on_step=show,
        )
    if args.out:
        write_report(payload, args.out, args.force)
    if args.json:
        _print_json(payload)
    else:
        _print_table(bench_table(payload))
    for sentence in doubts(payload["results"], payload["machine"]):
        note(f"fcn-edge: {sentence}")


# --------------------------------------------------------------------------------------------------------- inspect


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="contract, precision by layer, hashes and provenance of a file")
    parser.add_argument("file", metavar="FILE", help=".pt, .onnx, .engine or the name of a model that ships")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a listing")
    parser.set_defaults(command=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    from .export.facts import facts_from_file

    facts = facts_from_file(model_file(args.file))
    if args.json:
        _print_json(facts)
        return
    from rich.pretty import Pretty

    _print_table(Pretty(facts, expand_all=True))


# ---------------------------------------------------------------------------------------------- shared by commands


def _open_dataset(args: argparse.Namespace, engine: Engine) -> Dataset:
    """The data set with the classes asked for, or those of the model where it knows only some of them."""
    from .dataset import open_dataset_for

    return open_dataset_for(args.data, engine.contract.class_names, args.classes, args.holdout)


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def _print_table(table: RenderableType) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)
