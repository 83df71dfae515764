"""The whole path on a drawn street, from data set to report; knows nothing the commands do not offer.

Every step calls what the command of the same name calls, so the demo is also the shortest example of the Python API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import street
from .benchmarks.accuracy import evaluate
from .benchmarks.latency import measure
from .benchmarks.record import machine_facts
from .benchmarks.report import markdown_table
from .dataset import Dataset, open_dataset, read_sample
from .errors import GateError, MissingError, UsageError
from .export.build import build
from .export.build_request import BuildRequest, Built
from .export.frame_files import frame_files
from .export.gate import GateRequest
from .export.model_source import Quantisation
from .export.to_onnx import onnx_from_checkpoint
from .files import require_writable, write_atomically
from .pixels import Image, write_png
from .runtime import Overlay, open_engine, open_sink, open_source, run
from .runtime.engine import Engine
from .training.config import AugmentConfig, TrainConfig
from .training.loop import Progress, train

MODEL, PRECISION, MAX_MIOU_DROP = "fcn8s-edge-n", "int8", 0.01
TRAIN_HW = (240, 320)
CLIP_HW = (480, 640)
CLIP = "synthetic://street?seed={seed}&size={height}x{width}&fps=25&frames={frames}"
# Two minutes are a few thousand steps at most: milder variation than the trainer's own lets them count.
AUGMENT = AugmentConfig(scale=(0.75, 1.5), rotate=3, classmix=0, rare_crop=0.3)


def run_demo(
    out: Path,
    *,
    minutes: float = 2.0,
    threads: int | None = None,
    seed: int = 0,
    images: int = 240,
    clip_s: float = 10.0,
    force: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Draw, train, export, build in INT8 and stream.

    Writes ``street/`` (the data set), ``train/`` (checkpoints, curves), ``model.onnx``, ``engines/`` (what ``build``
    makes of it), ``overlay.mp4``, ``contact_sheet.png``, ``report.md`` and ``report.json``.

    Args:
        out: folder to write into.
        minutes: how long to train.
        threads: CPU threads; None: all.
        seed: of the street and of the training.
        images: how many images to train on; a sixth as many more are drawn to validate with.
        clip_s: length of the video in seconds.
        force: replace what an earlier demo left.
        on_step: called with a sentence as each step starts.
        on_progress: called after each training step.

    Returns:
        What ``report.json`` holds.

    Raises:
        UsageError: if ``minutes`` is not positive, ``out`` is read-only, or it is not empty and ``force`` is not given.
    """
    if not 0 < minutes <= 24 * 60:
        raise UsageError(f"minutes is {minutes:g}; expected more than 0, up to {24 * 60}")
    require_writable(out)
    if out.exists() and any(out.iterdir()) and not force:
        raise UsageError(f"{out} is not empty; use --force to replace an earlier demo, or another --out")
    started = time.perf_counter()

    on_step(f"drawing a street: {images} images to train on, {images // 6} to validate with, exact labels")
    for earlier in (out / "street").glob("*/*/street_*.png"):  # of another seed they have other names
        earlier.unlink()
    street.write_dataset(out / "street", train=images, val=images // 6, size_hw=TRAIN_HW, seed=seed)
    data = open_dataset(out / "street")

    on_step(f"training {MODEL} for {minutes:g} minutes")
    config = TrainConfig(
        data=str(out / "street"), out=str(out / "train"), model=MODEL, max_minutes=minutes, epochs=10_000,
        batch=8, crop=(192, 256), augment=AUGMENT, ema=0.99, val_every=10_000,
        threads=threads or 0, seed=seed,
    )  # fmt: skip
    trained = train(config, on_progress, force=force)

    on_step("exporting, and checking the file's labels against torch's")
    frames = [read_sample(data, sample)[0] for sample in data.samples("val")[:8]]
    model = onnx_from_checkpoint(trained.last, out / "model.onnx", force=force, verify_frames=frames)

    on_step(f"building {PRECISION} with ranges measured on images of the street, kept if mIoU is that of fp32")
    candidates, failure = {"fp32": model}, None
    try:
        built = build_int8(model, out, threads, force, on_step)
        candidates[PRECISION] = Path(built.engine or built.onnx)
    except (GateError, MissingError) as exc:
        failure = str(exc)
        on_step(f"going on with fp32: {failure}")
    deployed = candidates.get(PRECISION, model)

    results = {}
    for precision, path in candidates.items():
        on_step(f"evaluating {precision} on the validation images, and measuring its latency")
        with open_engine(path, threads=threads) as engine:
            results[precision] = {
                "file": str(path.relative_to(out)),
                "accuracy": evaluate(engine, data, "val"),
                "latency": measure(engine, frames, duration_s=5),
            }

    with open_engine(deployed, threads=threads) as engine:
        on_step("streaming a drive that was never seen to overlay.mp4")
        clip = CLIP.format(seed=seed + 1_000_003, height=CLIP_HW[0], width=CLIP_HW[1], frames=round(25 * clip_s))
        with (
            open_source(clip) as source,
            open_sink(str(out / "overlay.mp4"), contract=engine.contract, fps=source.fps, force=force) as sink,
        ):
            summary = run(source, engine, sink, overlay=Overlay(engine.contract))
        write_png(out / "contact_sheet.png", contact_sheet(engine, data))

    report = {
        "machine": machine_facts(),
        "results": results,
        "streamed": str(deployed.relative_to(out)),
        "not_built": failure,
        "stream": summary.to_dict(),
        "train": {"images": images, "minutes": trained.seconds / 60, "epochs": trained.epochs, "steps": trained.steps},
        "seconds": time.perf_counter() - started,
    }
    write_atomically(out / "report.json", json.dumps(report, indent=2).encode())
    write_atomically(out / "report.md", markdown_from_report(report).encode())
    return report


def build_int8(model: Path, out: Path, threads: int | None, force: bool, on_note: Callable[[str], None]) -> Built:
    """What ``fcn-edge build model.onnx --precision int8 --calib street --gate street -o engines`` builds."""
    request = BuildRequest(
        precisions=(PRECISION,),
        quantisation=Quantisation(frames=frame_files(out / "street")),
        gate=GateRequest(data=out / "street", max_miou_drop=MAX_MIOU_DROP),
        threads=threads,
        force=force,
    )
    return build(model, out / "engines", request, on_note=on_note)[0]


def contact_sheet(engine: Engine, data: Dataset) -> Image:
    """Four rows of frame, exact labels and prediction, uint8 BGR, of validation images spread over the split."""
    overlay = Overlay(engine.contract, legend=False, opacity=0.65)
    mask = Overlay(engine.contract, legend=False, mode="mask")
    samples = data.samples("val")
    picked = [samples[index] for index in np.linspace(0, len(samples) - 1, 4).round().astype(int)]
    lines = []
    for sample in picked:
        image, truth = read_sample(data, sample)
        predicted = engine.infer(image)
        lines.append(
            np.hstack([image, mask.draw(image, truth), mask.draw(image, predicted), overlay.draw(image, predicted)])
        )
    return np.vstack(lines)


def markdown_from_report(report: dict[str, Any]) -> str:
    """The report for a reader."""
    results, stream, trained = report["results"], report["stream"], report["train"]
    rows: dict[str, list[str]] = {
        f"mIoU on {results['fp32']['accuracy']['images']} scenes never seen": [],
        "pixel accuracy": [],
        "latency, frame to labels: p50 / p95 / p99": [],
        "of that, by stage (ms)": [],
    }
    for result in results.values():
        accuracy, latency = result["accuracy"], result["latency"]
        percentiles = " / ".join(f"{latency['latency_ms'][name]:.1f}" for name in ("p50", "p95", "p99"))
        stages = ", ".join(f"{name} {value:.2f}" for name, value in latency["stages_ms"].items())
        cells = (f"{accuracy['miou']:.3f}", f"{accuracy['pixel_accuracy']:.3f}", f"{percentiles} ms", stages)
        for row, cell in zip(rows.values(), cells, strict=True):
            row.append(cell)
    for name in results["fp32"]["accuracy"]["per_class"]:
        ious = [result["accuracy"]["per_class"][name] for result in results.values()]
        rows[f"IoU of {name}"] = ["-" if iou is None else f"{iou:.3f}" for iou in ious]
    failure = f"\nNo {PRECISION}: {report['not_built']}\n" if report["not_built"] else ""
    table = markdown_table(["", *results], [[name, *cells] for name, cells in rows.items()])
    return f"""# fcn_edge demo

{MODEL}, trained for {trained["minutes"]:.1f} minutes ({trained["steps"]} steps) on {trained["images"]} drawn images of
{TRAIN_HW[0]}x{TRAIN_HW[1]}, on {report["machine"]["cpu"]}; all together took {report["seconds"] / 60:.1f} minutes.

![frame, exact labels, prediction, overlay](contact_sheet.png)

{table}
{failure}
`overlay.mp4` is a drive through a street that the network has not seen, segmented by `{report["streamed"]}`:
{stream["fps"]:.1f} frames/s of {CLIP_HW[0]}x{CLIP_HW[1]}, drawing the street included.
"""
