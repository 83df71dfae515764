"""The whole path on a drawn street: data set, training, export, video, report; knows nothing the commands do not offer.

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
from .dataset import Dataset, open_dataset, read_sample
from .errors import UsageError
from .export.to_onnx import onnx_from_checkpoint
from .pixels import Image, require_writable, write_atomically, write_png
from .runtime import Overlay, open_engine, open_sink, open_source, run
from .runtime.engine import Engine
from .training.config import AugmentConfig, TrainConfig
from .training.loop import Progress, train

MODEL = "fcn8s-edge-n"
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
    """Draw, train, export and stream.

    Writes ``street/`` (the data set), ``train/`` (checkpoints, curves), ``model.onnx``, ``overlay.mp4``,
    ``contact_sheet.png``, ``report.md`` and ``report.json``.

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

    with open_engine(model, threads=threads) as engine:
        on_step("evaluating on the validation images")
        accuracy = evaluate(engine, data, "val")

        on_step("streaming a drive that was never seen to overlay.mp4")
        clip = CLIP.format(seed=seed + 1_000_003, height=CLIP_HW[0], width=CLIP_HW[1], frames=round(25 * clip_s))
        with (
            open_source(clip) as source,
            open_sink(str(out / "overlay.mp4"), contract=engine.contract, fps=source.fps, force=force) as sink,
        ):
            summary = run(source, engine, sink, overlay=Overlay(engine.contract))
        write_png(out / "contact_sheet.png", contact_sheet(engine, data))

        on_step("measuring latency")
        latency = measure(engine, frames, duration_s=5)

    report = {
        "machine": machine_facts(),
        "accuracy": accuracy,
        "latency": latency,
        "stream": summary.to_dict(),
        "train": {"images": images, "minutes": trained.seconds / 60, "epochs": trained.epochs, "steps": trained.steps},
        "seconds": time.perf_counter() - started,
    }
    write_atomically(out / "report.json", json.dumps(report, indent=2).encode())
    write_atomically(out / "report.md", markdown_from_report(report).encode())
    return report


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
    accuracy, latency, stream, trained = (report[part] for part in ("accuracy", "latency", "stream", "train"))
    percentiles = " / ".join(f"{latency['latency_ms'][name]:.1f}" for name in ("p50", "p95", "p99"))
    classes = "\n".join(
        f"| {name} | {'-' if iou is None else format(iou, '.3f')} |" for name, iou in accuracy["per_class"].items()
    )
    stages = ", ".join(f"{name} {value:.2f}" for name, value in latency["stages_ms"].items())
    return f"""# fcn_edge demo

{MODEL}, trained for {trained["minutes"]:.1f} minutes ({trained["steps"]} steps) on {trained["images"]} drawn images of
{TRAIN_HW[0]}x{TRAIN_HW[1]}, on {report["machine"]["cpu"]}.

![frame, exact labels, prediction, overlay](contact_sheet.png)

| | |
|---|---|
| mIoU on {accuracy["images"]} scenes never seen | {accuracy["miou"]:.3f} |
| pixel accuracy | {accuracy["pixel_accuracy"]:.3f} |
| latency, frame to labels: p50 / p95 / p99 | {percentiles} ms |
| of that, by stage (ms) | {stages} |
| video with overlay, {CLIP_HW[0]}x{CLIP_HW[1]}, drawing the street included | {stream["fps"]:.1f} frames/s |
| everything together | {report["seconds"] / 60:.1f} minutes |

`overlay.mp4` is a drive through a street that the network has not seen.

| class | IoU |
|---|---|
{classes}
"""
