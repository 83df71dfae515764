"""A picture of how a model does on a data set: image, label, prediction, errors; knows nothing about time.

Run as ``python -m fcn_edge.benchmarks.pictures``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import metrics
from ..dataset import Dataset, open_dataset_for, read_sample
from ..errors import FcnEdgeError, MissingError, UsageError
from ..pixels import Image, Labels
from ..runtime.engine import Engine, check_labels
from .accuracy import check_classes
from .engines import open_any_engine
from .report import progress_on_stderr, told


def draw_pictures(
    path: Path,
    engine: Engine,
    dataset: Dataset,
    split: str = "val",
    count: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Draw images spread over a split, a row for each, with pixel accuracy and mIoU of that image above it.

    Args:
        path: a ``.png`` file, replaced if it is there.
        engine: what to show; it stays open.
        dataset: opened with the engine's classes.
        split: such as ``val``.
        count: how many images; all, where there are fewer.
        on_progress: called after each image with the number done and the number of all.

    Raises:
        UsageError: if the file is no PNG or cannot be written, ``count`` is less than 1, or the split is unknown.
        ModelError: if engine and data set have different classes.
        DataError: if a file cannot be read.
        EngineError: if the engine fails.
        MissingError: if matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another name")
    if count < 1:
        raise UsageError(f"{count} images were asked for; expected at least 1")
    try:
        from ..training.plots import draw_grid
    except ImportError as exc:
        raise MissingError(f"matplotlib cannot be imported ({exc}); install it with: pip install matplotlib") from exc
    check_classes(engine, dataset)
    samples = dataset.samples(split)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    rows: list[tuple[Image, Labels, Labels]] = []
    captions = []
    for done, sample in enumerate((samples[index] for index in chosen), 1):
        image, label = read_sample(dataset, sample)
        answer = engine.infer(image)
        check_labels(answer, label.shape, len(dataset.class_names))
        matrix = metrics.confusion(answer, label, len(dataset.class_names), dataset.ignore_id)
        rows.append((image, label, answer))
        captions.append(
            f"{sample.name}: pixel accuracy {metrics.pixel_accuracy(matrix):.3f}, mIoU {metrics.miou(matrix):.3f}"
        )
        on_progress(done, len(chosen))
    try:
        draw_grid(path, rows, engine.contract, captions=captions, errors=True)
    except OSError as exc:
        raise UsageError(f"{path} cannot be written ({exc.strerror or exc}); choose another place with -o") from exc


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a model's picture; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.pictures", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help=".pt, .onnx, .engine, or the name of a shipped model")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="images and masks")
    parser.add_argument("--split", default="val", help="which part of the data (%(default)s)")
    parser.add_argument("--holdout", default="", metavar="SEQUENCE", help="val becomes this sequence of train")
    parser.add_argument(
        "--classes", type=lambda text: text.split(","), default=(), metavar="A,B=C+D", help="as in training"
    )
    parser.add_argument("--count", type=int, default=4, metavar="N", help="how many images (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (one for each physical core)")
    parser.add_argument("-o", dest="out", type=Path, required=True, metavar="FILE.png", help="replaced if it is there")
    args = parser.parse_args(arguments)
    try:
        with open_any_engine(args.model, threads=args.threads) as engine, progress_on_stderr() as show:
            dataset = open_dataset_for(args.data, engine.contract.class_names, args.classes, args.holdout)
            draw_pictures(
                args.out, engine, dataset, args.split, args.count, lambda done, total: show("segmenting", done, total)
            )
    except FcnEdgeError as exc:
        return told(exc)
    sys.stdout.write(f"{args.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
