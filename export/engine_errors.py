"""What TensorRT says when it refuses, as a sentence with a remedy; imports nothing of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FcnEdgeError, MissingError, ModelError
from ..runtime.sidecar import Gpu, Library, Options

_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|cannot allocate|memory allocation|bad_alloc|workspace (?:limit|size)", re.I
)
_CUDA = re.compile(r"no cuda-capable device|cuda initialization failure|driver version is insufficient", re.I)
_SHOWN = 5


def no_builder(library: Library, gpu: Gpu | None, reason: str) -> MissingError:
    """TensorRT's builder cannot start."""
    if gpu is None:
        return MissingError(
            f"{library} finds no NVIDIA GPU, which it needs to build an engine; install NVIDIA's driver, or build on "
            "the device itself; without TensorRT, a typed .onnx file runs on the CPU: fcn-edge export"
        )
    return MissingError(f"{library} cannot start on {gpu}: {reason}; check the driver with nvidia-smi")


def build_error(library: Library, gpu: Gpu | None, path: Path, options: Options, errors: Sequence[str]) -> FcnEdgeError:
    """The builder gave no engine.

    Args:
        library: which TensorRT.
        gpu: what it builds on.
        path: the typed ONNX file.
        options: what it was told.
        errors: what it logged, oldest first. Some are no reason: TensorRT-RTX logs errors of its cache and goes on.
    """
    shortage = next((text for text in errors if _MEMORY.search(text)), "")
    if shortage:
        limit = options.workspace_mib
        remedy = (
            f"its scratch memory is limited to --workspace {limit} MiB: give more, such as --workspace {limit * 4}"
            if limit
            else "close other programs that use the GPU, limit the scratch memory with --workspace 512, or choose a "
            "smaller input with --size"
        )
        return MissingError(f"TensorRT ran out of memory on {path.name} ({shortage}); {remedy}")
    if last(errors) and _CUDA.search(last(errors)):
        return no_builder(library, gpu, last(errors))
    return ModelError(
        f"TensorRT could not build an engine of {path.name}: {last(errors) or 'it gives no reason'}; try --opt-level 2 "
        "or --no-plugin, or report this with what fcn-edge doctor prints"
    )


def parser_error(parser: Any, path: Path) -> ModelError:
    """What an ``OnnxParser`` holds against a file, node by node."""
    places = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        places.append(f"\n  node {error.node()} {error.node_name()} ({error.node_operator()}): {error.desc()}")
    more = f"\n  and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ModelError(
        f"TensorRT's parser refuses {path} at {len(places)} place(s); export the file again with this version, or "
        f"build on a newer TensorRT:{''.join(places[:_SHOWN])}{more}"
    )


def last(errors: Sequence[str]) -> str:
    """The newest, or an empty string."""
    return errors[-1] if errors else ""
