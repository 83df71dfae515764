"""The mean of several checkpoints' averaged weights, as a checkpoint; knows nothing of how they were trained.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", ICML 2022. It works for short runs that began with the same weights or with each other's: after 830
epochs from the same classifier's weights two runs' mean had lost a third of their mIoU (docs/ablations.md).

Run as ``python -m fcn_edge.benchmarks.mean_weights A.pt B.pt -o MEAN.pt``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import FcnEdgeError, UsageError
from ..training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..training.qat import is_quantised
from .report import told


def mean_of_checkpoints(paths: Sequence[Path]) -> Checkpoint:
    """The mean of averaged weights; of whole numbers, and of everything else, what the last checkpoint has.

    Args:
        paths: two or more checkpoints of one network with the same classes, none of quantisation-aware training.

    Returns:
        A checkpoint to start from, to export or to evaluate, not to resume: it has no optimiser. Its provenance tells
        the sha256 of each file.

    Raises:
        UsageError: if there are fewer than two, or one has rounding in it, another network, other classes or another
            share of the class weights' lead in its answers.
        ModelError: as for :func:`fcn_edge.training.checkpoint.load_checkpoint`.
    """
    if len(paths) < 2:
        raise UsageError(f"got {len(paths)} checkpoint to take the mean of; expected two or more")
    checkpoints = [load_checkpoint(path) for path in paths]
    last = checkpoints[-1]
    for path, one in zip(paths, checkpoints, strict=True):
        if is_quantised(one.ema):
            raise UsageError(f"{path} is of quantisation-aware training; give the checkpoint that it was tuned from")
        for what, is_, expected in (
            ("model", one.contract.model, last.contract.model),
            ("classes", one.contract.class_names, last.contract.class_names),
            ("class_weights", one.config.class_weights, last.config.class_weights),
            ("logit_adjustment", one.config.logit_adjustment, last.config.logit_adjustment),
        ):
            if is_ != expected:
                raise UsageError(f"{path} has {what} {is_}, {paths[-1]} has {expected}; only alike weights have a mean")
    mean = {
        name: torch.stack([one.ema[name].float() for one in checkpoints]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in last.ema.items()
    }
    digests = ",".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return replace(
        last, model=mean, ema=mean, optimizer={}, scaler={}, hints={},
        provenance={**last.provenance, "mean_of_sha256": digests},
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the mean; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fcn_edge.benchmarks.mean_weights", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CKPT", help=".pt of one network")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="MEAN.pt", help="checkpoint to write")
    args = parser.parse_args(arguments)
    try:
        if args.output.exists():
            raise UsageError(f"{args.output} is there already and is not replaced; choose another name with -o")
        save_checkpoint(args.output, mean_of_checkpoints(args.checkpoints))
    except FcnEdgeError as exc:
        return told(exc)
    except OSError as exc:
        return told(UsageError(f"{args.output} cannot be written: {exc.strerror or exc}; choose another place with -o"))
    sys.stdout.write(f"{args.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
