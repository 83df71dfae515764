"""TensorRT's module, its log and the library of the fused head, found and checked; builds and runs no engine."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any

from ..errors import MissingError
from .sidecar import Library, Plugin, sha256_of

RTX = "tensorrt_rtx"
PACKAGES = ("tensorrt", RTX)
"""Modules with TensorRT's interface, the first that works is used; the second is for GeForce and RTX desktops."""

OLDEST = (10, 3)
NEWER = "install a newer one with: pip install 'fcn-edge[gpu]', or on a Jetson flash JetPack 6.1 or newer"
TURING = 75
"""TensorRT-RTX builds for it only where it is named, and then for it alone; all others that it takes share a plan."""

PLUGIN_FILE = "libfcn_edge_plugin.so"
PLUGIN_VARIABLE = "FCN_EDGE_PLUGIN"
PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE = "SkipHead", "1", ""

_RTX_FILE = "libtensorrt_rtx.so"
_ONE_LOG = threading.Lock()
_PACKAGE_FOLDER = Path(__file__).parents[1]
_PLUGIN_REMEDY = (
    f"build it (cpp_plugins/README.md) and give it with --plugin FILE or {PLUGIN_VARIABLE}, or leave the fused head "
    "out with --no-plugin"
)


def has_tensorrt() -> bool:
    """Whether a TensorRT is installed here, usable or not."""
    return any(importlib.util.find_spec(name) for name in PACKAGES)


def require_tensorrt() -> ModuleType:
    """TensorRT's module: ``tensorrt``, or ``tensorrt_rtx`` where only that is usable.

    Raises:
        MissingError: if neither can be imported, or TensorRT is older than 10.3.
    """
    reasons = []
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
            version = str(module.__version__)
        except (ImportError, OSError, AttributeError, RuntimeError) as exc:
            reasons.append(f"{name} is installed but cannot be imported ({exc})")
            continue
        if reason := too_old(name, version):
            reasons.append(reason)
            continue
        return module
    if reasons:
        raise MissingError(f"{'; '.join(reasons)}; {NEWER}")
    raise MissingError(
        "TensorRT is not installed; on a Jetson it comes with JetPack 6.1 or newer, elsewhere: "
        "pip install 'fcn-edge[gpu]' (or tensorrt_rtx on a GeForce/RTX desktop); the .onnx file runs on the CPU without"
    )


def too_old(package: str, version: str) -> str:
    """Why a TensorRT of this version cannot be used, empty if it can; that of TensorRT-RTX counts on its own."""
    if package == RTX or _numbers(version)[:2] >= OLDEST:
        return ""
    return (
        f"TensorRT {version} is too old: engines need 10.3, which comes with JetPack 6.1 (6.0 and 5 "
        "have TensorRT 8 and cannot be used)"
    )


def library_of(trt: ModuleType) -> Library:
    """Which TensorRT a module is, its version cut to three numbers: what an engine is bound to."""
    return Library(package=trt.__name__, version=".".join(map(str, _numbers(trt.__version__)[:3])))


def log_of(trt: ModuleType) -> Any:
    """The TensorRT logger of this process: ``messages``, a list of (severity's name, text) from warnings up.

    There is one for builders and runtimes alike: TensorRT keeps the first that it gets for good, so it is never freed.
    Who wants to know what an operation logged clears ``messages`` before it.
    """
    with _ONE_LOG:  # the cache calls twice for two threads, and would free a log that TensorRT may have kept
        return _new_log(trt)


@functools.cache
def _new_log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps warnings and errors."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity <= trt.ILogger.WARNING:
                self.messages.append((severity.name, text))

        def errors(self) -> list[str]:
            """What went wrong, oldest first."""
            return [text for name, text in self.messages if name in ("ERROR", "INTERNAL_ERROR")]

    return Log()


def open_runtime(trt: ModuleType) -> Any:
    """TensorRT's ``Runtime``, which reads plans.

    Raises:
        MissingError: if it cannot start, as with a driver that is too old or a GPU that is full.
    """
    log = log_of(trt)
    log.messages.clear()
    try:
        return trt.Runtime(log)
    except (TypeError, RuntimeError) as exc:
        raise MissingError(
            f"{library_of(trt)} cannot start: {no_start(log, exc)}; check the driver and the GPU's free memory with "
            "nvidia-smi"
        ) from exc


def unfit_gpu(library: Library, errors: Sequence[str]) -> MissingError | None:
    """The error of a plan that was refused for the GPU's sake, whoever built it and where; None: it was not.

    Args:
        library: which TensorRT.
        errors: what it logged. TensorRT-RTX takes fewer kinds of GPU than TensorRT, and builds on the others too.
    """
    said = next((text for text in errors if "does not support this compute capability" in text), None)
    if said is None:
        return None
    one = re.search(r"has compute capability (\d+\.\d+)", said)
    if one and one[1] == f"{TURING // 10}.{TURING % 10}":
        return None  # it takes this one if the engine is built there
    others = re.search(r"Supported compute capabilities: (.+?)\. ", said)
    kind = f"compute capability {one[1]}" if one else "this kind"
    return MissingError(
        f"{library} does not run on a GPU of {kind}{f', but on {others[1]}' if others else ''}; pip install tensorrt, "
        "which is taken before it, and build the engine again"
    )


def no_start(log: Any, exc: Exception) -> str:
    """Why TensorRT gave no builder or runtime.

    Args:
        log: what :func:`log_of` gave; some versions only warn of a "CUDA initialization failure".
        exc: pybind11's words for a factory that returned nothing, for want of others.
    """
    texts = log.errors() or [text for _, text in log.messages]
    return str(texts[-1]).strip().splitlines()[0].rstrip(".") if texts else str(exc)


def find_plugin(given: str | Path | None = None) -> Path:
    """The library of the fused head: the file given, else ``FCN_EDGE_PLUGIN``, else the package's own.

    A library runs code, so nothing else is searched.

    Raises:
        MissingError: if there is none.
    """
    asked = given or os.environ.get(PLUGIN_VARIABLE)
    named = Path(asked) if asked else None
    places = [named] if named else [folder / PLUGIN_FILE for folder in _package_folders()]
    for path in places:
        if path.is_file():
            return path.resolve()
    what = f"plugin library {named} does not exist" if named else f"this installation has no {PLUGIN_FILE}"
    raise MissingError(f"{what}, the fused head for TensorRT; {_PLUGIN_REMEDY}")


def require_own_name() -> None:
    """That TensorRT-RTX can open its own library by the name that it gives it; else no network may hold a plugin.

    Told of the first plugin, TensorRT-RTX (seen: 1.7.1 on Linux) opens ``libtensorrt_rtx.so``, beside itself or where
    the loader looks. Without one it ends the process, which Python cannot catch; and pip's packages bring
    ``libtensorrt_rtx.so.1`` alone.

    Raises:
        MissingError: if there is none; with the command that makes the link.
    """
    package = importlib.util.find_spec(f"{RTX}_libs")
    if package is None or package.origin is None:
        return  # not from pip: NVIDIA's archives bring the link
    folder = Path(package.origin).resolve().parent  # resolved as the package itself does before it loads them
    versioned, link = sorted(folder.glob(f"{_RTX_FILE}.*")), folder / _RTX_FILE
    if not versioned or link.exists():
        return
    try:
        ctypes.CDLL(_RTX_FILE)
    except OSError as exc:
        raise MissingError(
            f"TensorRT-RTX opens {_RTX_FILE} for the fused head, and {folder} has only {versioned[0].name}; leave the "
            f"fused head out with --no-plugin, or make the link: ln -sf {versioned[0].name} {quote(str(link))}"
        ) from exc


def _package_folders() -> list[Path]:
    """Where the package's files lie: an editable install keeps what is compiled apart from the sources."""
    native = importlib.util.find_spec(f"{__name__.partition('.')[0]}._native")
    return [_PACKAGE_FOLDER, *([Path(native.origin).parent] if native and native.origin else [])]


def load_plugin(trt: ModuleType, path: Path) -> Plugin:
    """Make the fused head known to TensorRT's registry; a process may call this more than once.

    Args:
        trt: TensorRT's module.
        path: the library.

    Raises:
        MissingError: if the library cannot be loaded here or holds no fused head.
        ModelError: if it cannot be read.
    """
    registry = trt.get_plugin_registry()
    plugin = Plugin(version=PLUGIN_VERSION, sha256=sha256_of(path, "plugin library", _PLUGIN_REMEDY))
    if not _is_registered(registry):
        log = log_of(trt)
        log.messages.clear()
        registry.load_library(str(path))
        if not _is_registered(registry):
            raise MissingError(f"plugin library {path} cannot be used: {_no_plugin(path, log)}; {_PLUGIN_REMEDY}")
    return plugin


def _no_plugin(path: Path, log: Any) -> str:
    """Why a library gave no fused head; the loader knows where TensorRT has no log yet."""
    try:
        ctypes.CDLL(str(path))
    except OSError as exc:
        return str(exc).removeprefix(f"{path}: ")
    return next(iter(log.errors()), f"it holds no {PLUGIN_NAME} of version {PLUGIN_VERSION}")


def _is_registered(registry: Any) -> bool:
    """Whether the fused head is known; to ask for it by name would log an error where it is not."""
    wanted = (PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    return any(
        (creator.name, creator.plugin_version, creator.plugin_namespace) == wanted for creator in registry.all_creators
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (10, 3, 0) of 10.3.0.post1."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)
