"""The whole of ``fcn-edge bench``: models in, one JSON object out; knows nothing about the command line or reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..cores import require_threads
from ..dataset import Dataset, read_sample
from ..errors import MissingError
from ..pixels import Image
from ..runtime.engine import Engine
from .accuracy import check_classes, evaluate, part_name, part_of
from .engines import facts_of, open_any_engine, open_reference
from .latency import CHECKED_FRAMES, WARMUP_FRAMES, Candidate, measure_interleaved, rounds_in, warm_up_s
from .memory import memory_alone
from .record import machine_facts, today

FRAMES = 16

OnStep = Callable[[str, int, int], None]
"""Called as ``on_step(what, done, total)``."""


def bench_models(
    models: Sequence[str | Path],
    *,
    open_data: Callable[[Engine], Dataset] | None = None,
    split: str = "val",
    duration_s: float = 10.0,
    threads: int | None = None,
    device: str = "auto",
    precision_hint: str | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Accuracy, latency and memory of models, side by side.

    Args:
        models: ``.pt``, ``.onnx`` or ``.engine`` files, or names of models that ship with the package.
        open_data: gives the data set, opened with an engine's choice of classes; None: latency on synthetic frames
            of the first model's input size for all of them, which the others resize, and no accuracy.
        split: the split of the data set.
        duration_s: seconds for which each model is timed.
        threads: how many threads the CPU may use; None: one for each physical core.
        device: where checkpoints run: ``auto``, ``cpu`` or ``cuda``.
        precision_hint: for ``.onnx`` files, as :func:`fcn_edge.runtime.engine.open_engine` takes it.
        on_step: called as the work goes on.

    Returns:
        The object that ``fcn-edge bench --json`` prints: ``recorded`` (date, UTC), ``options`` (``duration_s``,
        ``rounds``, ``warmup_s``, ``warmup_frames``, ``checked_frames``, ``threads``, ``device``, ``precision_hint``,
        ``data``, a folder's name or None, ``split``), ``machine`` as it was before the first model ran, ``results``.

    Raises:
        UsageError: if a name, an option or the split means nothing.
        ModelError: if a file is missing or damaged, or model and data set have different classes.
        MissingError: if a backend is not installed.
        GateError: if a model fails the check that comes before the timing.
    """
    threads = require_threads(threads)
    machine = machine_facts()  # its load is that of others, not of the models
    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(open_any_engine(model, threads=threads, device=device, precision_hint=precision_hint))
            for model in models
        ]
        datasets = [open_data(engine) if open_data else None for engine in engines]
        for model, engine, dataset in zip(models, engines, datasets, strict=True):
            if dataset:
                check_classes(engine, dataset, str(model))  # all of them before the first has cost minutes
        candidates = []
        for number, (model, engine, dataset) in enumerate(zip(models, engines, datasets, strict=True), 1):
            frames, origin = _frames(dataset, split, engines[0].contract.size_hw)
            params, gmacs = facts_of(model)
            frame_hw = (frames[0].shape[0], frames[0].shape[1])
            rss_mib, gpu_mib = memory_alone(
                model, frame_hw, threads=threads, device=device, precision_hint=precision_hint
            )
            if on_step:
                on_step("memory", number, len(models))
            facts = {
                "params": params,
                "gmacs": gmacs,
                "rss_mib": rss_mib,
                "gpu_mib": gpu_mib,
                "rss_of": "a process with this model alone",
                "threads": threads,
                "frames_from": origin,
                **_accuracy(engine, dataset, split, str(model), on_step),
            }
            hint = precision_hint if engine.backend == "openvino" else None  # others take none
            candidates.append(Candidate(str(model), engine, frames, open_reference(model), facts, hint))
        results = measure_interleaved(candidates, duration_s, partial(on_step, "timing") if on_step else None)
    return {
        "recorded": today(),
        "options": {
            "duration_s": duration_s,
            "rounds": rounds_in(duration_s),
            "warmup_s": warm_up_s(duration_s),
            "warmup_frames": WARMUP_FRAMES,
            "checked_frames": CHECKED_FRAMES,
            "threads": threads,
            "device": device,
            "precision_hint": precision_hint,
            "data": datasets[0].root.resolve().name if datasets[0] else None,
            "split": part_name(part_of(datasets[0], split)) if datasets[0] else None,
        },
        "machine": machine,
        "results": results,
    }


def _accuracy(
    engine: Engine, dataset: Dataset | None, split: str, model: str, on_step: OnStep | None
) -> dict[str, Any]:
    if dataset is None:
        return {}
    on_progress = partial(on_step, f"accuracy of {Path(model).name}") if on_step else None
    found = evaluate(engine, dataset, split, on_progress, model)
    return {**part_of(dataset, split), **{key: found[key] for key in ("images", "miou", "pixel_accuracy")}}


def _frames(dataset: Dataset | None, split: str, size_hw: tuple[int, int]) -> tuple[list[Image], str]:
    """Frames to time with, uint8 ``[height, width, 3]`` BGR each, drawn ones ``size_hw``, and where they are from."""
    if dataset:
        samples = dataset.samples(split)
        chosen = samples[:: max(len(samples) // FRAMES, 1)][:FRAMES]
        return [
            read_sample(dataset, sample)[0] for sample in chosen
        ], f"{dataset.root.name} {part_name(part_of(dataset, split))}"
    try:
        from ..street import draw_street

        return [draw_street(0, index / 4, size_hw)[0] for index in range(FRAMES)], "synthetic://street"
    except MissingError:  # no OpenCV to draw with: the time of a network does not depend on what a frame shows
        random = np.random.default_rng(0)
        return [random.integers(0, 256, (*size_hw, 3), np.uint8) for _ in range(FRAMES)], "noise"
