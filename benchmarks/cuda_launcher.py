"""The CUDA skip head called on torch tensors through ctypes; knows nothing about timing or TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import EngineError, MissingError, UsageError
from ..skip_head import MAX_STAGES

_FUNCTION = "fcn_edge_skip_head_cuda"
_Sides = ctypes.c_int64 * 4


def open_launcher(path: Path) -> CudaLauncher:
    """Load ``libfcn_edge_cuda.so`` or ``libfcn_edge_plugin.so``, which hold the same kernel; needs no GPU yet.

    Raises:
        MissingError: if the file is not there, cannot be loaded, or holds no skip head.
    """
    if not path.is_file():
        raise MissingError(f"{path} is not there; build it with -DFCN_EDGE_CUDA_LIBRARY=ON (cpp_plugins/README.md)")
    try:
        # Resolved: the loader takes a bare name for one in its own folders, not in this one.
        function = getattr(ctypes.CDLL(str(path.resolve())), _FUNCTION)
    except (OSError, AttributeError) as exc:
        raise MissingError(f"{path} holds no CUDA skip head ({exc}); build it as cpp_plugins/README.md says") from exc
    return CudaLauncher(function)


class CudaLauncher:
    """The kernel's C interface."""

    def __init__(self, function: Any) -> None:
        self._function = function
        function.restype = ctypes.c_int

    def __call__(
        self,
        scores: Sequence[torch.Tensor],
        kernels: Sequence[torch.Tensor],
        size_hw: tuple[int, int],
        out: torch.Tensor,
        stream: int = 0,
    ) -> torch.Tensor:
        """Label every pixel; returns once the kernel is queued.

        Args:
            scores: float32 or float16 ``[N, C, h_i, w_i]`` on the GPU, contiguous, coarse to fine, all of one type.
            kernels: float32 or float16 ``[C, 1, 4, 4]``, last ``[C, 1, 2s, 2s]``, likewise.
            size_hw: (height, width) of the labels.
            out: uint8 ``[N, H, W]`` on the GPU, contiguous; it stays the caller's.
            stream: handle of a CUDA stream, ``torch.cuda.Stream.cuda_stream``.

        Returns:
            ``out``.

        Raises:
            UsageError: a tensor that the kernel cannot take.
            EngineError: sizes that do not fit together, or a kernel that could not be launched.
        """
        n = len(scores)
        if n != len(kernels) or not 1 <= n <= MAX_STAGES:
            raise UsageError(f"got {n} score maps and {len(kernels)} kernels; expected 1 to 4 of each, equally many")
        halves = [_is_half(name, tensors) for name, tensors in (("scores", scores), ("kernels", kernels))]
        _check("out", out, (torch.uint8,), 3)
        if tuple(out.shape) != (scores[0].shape[0], *size_hw):
            raise UsageError(f"out is {list(out.shape)}; expected {[scores[0].shape[0], *size_hw]}")
        message = ctypes.create_string_buffer(512)
        failed = self._function(
            ctypes.c_int(n),
            *_arguments(scores, halves[0]),
            *_arguments(kernels, halves[1]),
            ctypes.c_int64(size_hw[0]),
            ctypes.c_int64(size_hw[1]),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_void_p(stream),
            message,
            ctypes.c_size_t(len(message)),
        )
        if failed:
            raise EngineError(message.value.decode())
        return out


def _arguments(tensors: Sequence[torch.Tensor], half: bool) -> tuple[Any, Any, ctypes.c_int]:
    """Dimensions, addresses and type of one kind of input."""
    sides = (_Sides * len(tensors))(*(_Sides(*tensor.shape) for tensor in tensors))
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    return sides, addresses, ctypes.c_int(half)


def _is_half(name: str, tensors: Sequence[torch.Tensor]) -> bool:
    for i, tensor in enumerate(tensors):
        _check(f"{name}[{i}]", tensor, (torch.float32, torch.float16), 4)
        if tensor.dtype != tensors[0].dtype:
            raise UsageError(
                f"{name}[{i}] is {tensor.dtype} and {name}[0] {tensors[0].dtype}; they must be of one type"
            )
    return tensors[0].dtype == torch.float16


def _check(name: str, tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...], axes: int) -> None:
    if tensor.dtype not in dtypes:
        raise UsageError(f"{name} is {tensor.dtype}; expected {' or '.join(map(str, dtypes))}")
    if tensor.dim() != axes:
        raise UsageError(f"{name} has {tensor.dim()} axes; expected {axes}")
    if not tensor.is_contiguous():
        raise UsageError(f"{name} is strided; expected contiguous: pass {name}.contiguous()")
    if not tensor.is_cuda:
        raise UsageError(f"{name} is on {tensor.device}; expected a CUDA device: pass {name}.cuda()")
