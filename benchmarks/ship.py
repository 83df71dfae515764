"""Makes a model that ships with the package: INT8 file, card and record, from a checkpoint; knows nothing of training.

Run as ``python -m fcn_edge.benchmarks.ship CKPT NAME --data camvid --quantised RECORD``, in a checkout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..dataset import open_dataset
from ..errors import FcnEdgeError, UsageError
from ..files import replaced, write_atomically
from ..runtime import open_engine
from ..size_text import size_from_text
from .accuracy import evaluate
from .record import last_parts, machine_facts, passes, today, write_record
from .report import markdown_table, told

MODELS, RECORDS = Path("fcn_edge/models"), Path("benchmarks/records")
_HISTORY_LINES = 40
_LITE_LICENCE = " So are EfficientNet-Lite's ImageNet weights (Google), with which it began."
_ENLARGED = ', CamVid\'s own too: docs/ablations.md, "Larger inputs"'
_DEPTHWISE = (
    "its depthwise convolutions stay FP16 with `fcn-edge build {name} -o engines --keep '*depthwise*'`, or take "
    '`--precision fp16`: docs/models.md, "Depthwise convolutions"'
)


def ship(
    checkpoint: Path,
    name: str,
    data: Path,
    quantised: Path,
    commit: str,
    story: str,
    before: Path | None = None,
    size_hw: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Write ``fcn_edge/models/NAME.onnx`` and ``.md`` and ``benchmarks/records/NAME.json``.

    Args:
        checkpoint: the ``.pt`` to ship, trained on all splits.
        name: of the model, such as ``camvid-n``.
        data: the data set, whose training images measure the INT8 ranges (unless the checkpoint learned them).
        quantised: record of :mod:`.quantised` with the same network at the same size, trained without the sequence that
            judges it.
        commit: of the code that trained it.
        story: how the weights came about, a sentence or two for the card.
        before: the checkpoint that its run went on from, which quantisation-aware training fine-tuned if it was that.
        size_hw: (height, width) that the file takes; None: that which the checkpoint was made for.

    Returns:
        The record.

    Raises:
        UsageError: if this is no checkout, or ``quantised`` has no run of the checkpoint's network at that size.
        FcnEdgeError: as export, quantisation and evaluation raise it.
    """
    from ..export.facts import facts_from_file
    from ..export.quantize import typed_onnx
    from ..export.to_onnx import onnx_from_checkpoint

    if not (MODELS.is_dir() and RECORDS.is_dir()):
        raise UsageError(f"{MODELS} and {RECORDS} are not here; run this in a checkout of fcn_edge")
    facts = facts_from_file(checkpoint)
    size_hw = size_hw or tuple(facts["contract"]["size_hw"])
    judged = _judged(quantised, facts["contract"]["model"], size_hw, learned=facts["training"]["config"]["qat"])
    dataset = open_dataset(data)
    target = MODELS / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        fp32 = onnx_from_checkpoint(checkpoint, Path(folder) / f"{name}.onnx", size_hw)
        report = typed_onnx(fp32, Path(folder) / "int8.onnx", "int8", calib=data)
        scores = {}
        for key, path in (("val_fp32", fp32), ("val", report.path)):
            with open_engine(path) as engine:
                scores[key] = evaluate(engine, dataset) | {"model": name, "data": data.resolve().name}
        exported = facts_from_file(fp32)
        with replaced(target) as temporary:
            temporary.write_bytes(report.path.read_bytes())
    record = {
        "benchmark": f"the shipped {name}: {facts['contract']['model']}, INT8",
        "recorded": today(),
        "note": "val was trained on: its numbers show that the file is whole, not how good it is",
        "machine": machine_facts(),
        "story": story,
        "commit_trained": commit,
        **_training(checkpoint, facts, name),
        "before": _training(before, facts_from_file(before), name) if before else None,
        "sha256": facts_from_file(target)["sha256"],
        "bytes": target.stat().st_size,
        "int8": {"method": report.method, "agreement": report.agreement, "kept": list(report.kept)},
        "eval": scores,
    }
    write_record(RECORDS / f"{name}.json", record)
    facts |= {"contract": exported["contract"], "gmacs": exported["gmacs"]}
    write_atomically(target.with_suffix(".md"), card(name, facts, record, judged).encode())
    return record


def card(name: str, facts: dict[str, Any], record: dict[str, Any], judged: dict[str, Any]) -> str:
    """The model card, Markdown.

    Args:
        name: of the model.
        facts: of its checkpoint, as :func:`fcn_edge.export.facts.facts_from_file` gives them, at the size that ships.
        record: what :func:`ship` writes.
        judged: ``fp32`` and ``int8`` of the run of :mod:`.quantised` that stands for it.
    """
    contract, config, int8 = facts["contract"], record["config"], record["int8"]
    height, width = contract["size_hw"]
    run, ranges = record, f"ranges by {int8['method']}"
    if int8["method"] == "learned":
        run = record["before"] or record
        ranges = f"ranges learned in {record['epochs']} epochs ({record['steps']} steps) of quantisation-aware training"
    else:
        ranges += (
            f"; {int8['agreement']:.2%} of the labels of training images that did not measure them are those of FP32"
        )
    splits, options = " + ".join(config["splits"]), run["config"]
    is_lite = "-efficientnet-lite" in contract["model"]
    is_own = config["size"] is None or [height, width] == list(config["size"])
    kind = "EfficientNet-Lite" if is_lite else "plain residual"
    kind = f"slim {kind}" if "-slim" in contract["model"] else kind
    kind += " with a top-down pathway," if contract["model"].endswith("-fpn") else ""
    rows = [
        ["Architecture", f"`{contract['model']}`: {kind} FCN with score maps at strides {_listed(contract)}"],
        ["Params, GMACs", f"{facts['params'] / 1e6:.2f} M, {facts['gmacs']:.2f} at {height}x{width}"],
        ["Input", f"{height}x{width}; a frame of any size is resized{'' if is_own else _ENLARGED}"],
        ["Classes", ", ".join(contract["class_names"])],
        [
            "Data",
            f"CamVid, {splits} ({record['provenance']['train_images']} images of 360x480), split of SegNet's tutorial",
        ],
        ["Recipe", record["story"]],
        [
            "Last run",
            f"{run['epochs']} epochs ({run['steps']} steps of {options['batch']} crops of "
            f"{'x'.join(map(str, options['crop']))}), seed {options['seed']}, {run['minutes']:.0f} minutes; the last "
            "checkpoint, averaged weights; nothing was chosen on val or test",
        ],
        ["INT8", ranges],
        *([["On a GPU", _DEPTHWISE.format(name=name)]] if is_lite else []),
        ["Record", f"`benchmarks/records/{name}.json`"],
    ]
    scores = [[label, "-" if iou is None else f"{iou:.3f}"] for label, iou in judged["int8"]["per_class"].items()]
    scores += [["**mIoU**", f"**{judged['int8']['miou']:.3f}**"]]
    return f"""# {name}

`fcn-edge stream {name} 0`: street scenes, {len(contract["class_names"])} classes, INT8, {record["bytes"] / 1e6:.1f} MB.

{markdown_table(["", ""], rows)}

## How good it is

No labelled image is left that these weights have not seen. A twin, the same network trained in the same manner but
without sequence 0006R0 and for a shorter time, has on that sequence's 101 images, in INT8 ({judged["fp32"]["miou"]:.3f}
mIoU in FP32):

{markdown_table(["class", "IoU"], scores)}

0006R0 is a drive that resembles no other: car parks, a petrol station, a supermarket, and next to no bicyclist, so
that a network that finds none of those few pixels loses a class of eleven.

## What it is bad at

Thin and small things (poles, signs, people far away), bicyclists, night, rain, streets that do not look like Cambridge
in 2005, cameras that are not behind a windscreen. It must not steer anything.

## Licence

CamVid (Brostow, Fauqueur, Cipolla: "Semantic object classes in video", 2009) is for research; so are these weights. The
code is Apache-2.0.{_LITE_LICENCE if is_lite else ""}
"""


def _judged(path: Path, model: str, size_hw: tuple[int, int], learned: bool) -> dict[str, Any]:
    """Scores ``fp32`` and ``int8`` of a network at a size in a record of :mod:`.quantised`, the first seed."""
    from .quantised import read_record

    key = "int8_qat" if learned else "int8_ptq"
    runs: list[dict[str, Any]] = [
        run
        for run in read_record(path)["runs"]
        if run["model"] == model and run.get("size_hw") == list(size_hw) and run.get(key)
    ]
    if not runs:
        raise UsageError(
            f"{path} has no run of {model} at {size_hw[0]}x{size_hw[1]} with {key}; measure one with "
            "python -m fcn_edge.benchmarks.quantised"
        )
    run = min(runs, key=lambda run: int(run["seed"]))
    return {"fp32": run["fp32"], "int8": run[key]}  # not the fine-tuned weights unrounded, which nobody runs


def _without_places(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Options without the folders of the machine that trained."""
    return _shortened(config) | {"data": "camvid", "out": f"runs/{name}"}


def _shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """Options or provenance with only the last two parts of the paths of other checkpoints."""
    return {key: _tail(value) if key in ("init", "teacher") else value for key, value in facts.items()}


def _tail(paths: Any) -> Any:
    if isinstance(paths, (list, tuple)):
        return [_tail(path) for path in paths]
    return ",".join(map(last_parts, paths.split(",")))


def _training(checkpoint: Path, facts: dict[str, Any], name: str) -> dict[str, Any]:
    """What a record says of a run."""
    training = facts["training"]
    return {
        "minutes": training["seconds"] / 60,
        "epochs": passes(training),
        "steps": training["steps"],
        "config": _without_places(training["config"], name),
        "provenance": _shortened(training["provenance"]) | {"data": "camvid"},
        "checkpoint_sha256": facts["sha256"],
        "history": _thinned(checkpoint),
    }


def _thinned(checkpoint: Path) -> list[dict[str, Any]]:
    """Loss and time over the run, some forty epochs of it."""
    from ..training.checkpoint import load_checkpoint

    history = load_checkpoint(checkpoint).history
    every = -(-len(history) // _HISTORY_LINES)
    kept = [entry for entry in history if entry["epoch"] % every == 0 or entry is history[-1]]
    return [{key: entry[key] for key in ("epoch", "loss", "seconds")} for entry in kept]


def _listed(contract: dict[str, Any]) -> str:
    *coarse, finest = map(str, contract["strides"])
    return f"{', '.join(coarse)} and {finest}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.ship", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=".pt, trained on all splits")
    parser.add_argument("name", metavar="NAME", help="such as camvid-n")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CamVid")
    parser.add_argument("--quantised", type=Path, required=True, metavar="FILE.json", help="record that judges it")
    parser.add_argument("--commit", required=True, help="of the code that trained it")
    parser.add_argument("--story", required=True, help="how the weights came about, for the card")
    parser.add_argument("--size", metavar="HxW", help="input size of the file (that of training)")
    parser.add_argument("--before", type=Path, metavar="CKPT", help="what its run went on from")
    args = parser.parse_args(arguments)
    try:
        size_hw = size_from_text(args.size, f"--size is '{args.size}'") if args.size else None
        record = ship(
            args.checkpoint, args.name, args.data, args.quantised, args.commit, args.story, args.before, size_hw
        )
    except FcnEdgeError as exc:
        return told(exc)
    summary = {key: record[key] for key in ("bytes", "int8", "epochs", "minutes")}
    summary["miou"] = {key: scores["miou"] for key, scores in record["eval"].items()}
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
