"""What the runtime's tests share: numbered frames, videos of them, and a small model made by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_edge.classes import distinct_palette
from fcn_edge.contract import METADATA_KEY, Contract, json_from_contract
from fcn_edge.runtime import gpu, sidecar
from fcn_edge.runtime.cuda_graph import ONE_CAPTURE
from fcn_edge.runtime.frame import Frame
from fcn_edge.runtime.source import Source

SIZE_HW = (48, 64)


def marked(index: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """A frame whose number can be read off its grey level, also after lossy compression: 20 levels apart by 12."""
    return np.full((*size_hw, 3), 10 + 12 * (index % 20), np.uint8)


def mark_of(image: np.ndarray) -> int:
    return round((float(np.median(image)) - 10) / 12)


@pytest.fixture
def marks() -> tuple[Callable[..., np.ndarray], Callable[[np.ndarray], int]]:
    return marked, mark_of


def write_video(path: Path, count: int, size_hw: tuple[int, int] = SIZE_HW, fps: float = 25.0) -> Path:
    codec = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, fps, size_hw[::-1])
    for index in range(count):
        writer.write(marked(index, size_hw))
    writer.release()
    return path


@pytest.fixture
def make_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture
def read_video() -> Callable[[Path], list[np.ndarray]]:
    def read(path: Path) -> list[np.ndarray]:
        capture = cv2.VideoCapture(str(path))
        images = []
        while (answer := capture.read())[0]:
            images.append(answer[1])
        capture.release()
        return images

    return read


class DriverError(Exception):
    pass


@pytest.fixture
def fake_driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU that is none: as much of ``pycuda.driver`` and of libcuda as an engine needs.

    ``said``: what copies, and the opening of the GPU, fail with.
    """

    def answer(*arguments: object) -> SimpleNamespace:
        if fake.said:
            raise DriverError(fake.said)
        return SimpleNamespace(push=lambda: None, detach=lambda: None)

    class Pages(np.ndarray):
        def free(self) -> None:
            pass

    class Allocation(int):
        def free(self) -> None:
            pass

    fake = SimpleNamespace(said="", Error=DriverError, init=lambda: None, mem_get_info=lambda: (3 << 20, 5 << 20))
    fake.Device = lambda number: SimpleNamespace(get_attribute=lambda name: 0, retain_primary_context=answer)
    fake.device_attribute = SimpleNamespace(INTEGRATED=18)
    fake.event_flags = SimpleNamespace(DISABLE_TIMING=2)
    fake.Context = SimpleNamespace(pop=lambda: None)
    fake.Stream = lambda flags: SimpleNamespace(handle=1, synchronize=lambda: None)
    fake.Event = lambda flags: SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    fake.pagelocked_empty = lambda shape, dtype, mem_flags: Pages(math.prod(shape), dtype).reshape(shape)
    addresses = itertools.count(1 << 20, 1 << 20)
    fake.mem_alloc = lambda size: Allocation(next(addresses))
    fake.memcpy_htod_async = fake.memcpy_dtoh_async = answer
    fake.cuCtxSynchronize = lambda: 0
    fake.cuCtxPopCurrent_v2 = lambda context: 0
    monkeypatch.setattr(gpu, "find_gpu", lambda: sidecar.Gpu(name="Orin", sm=87))
    monkeypatch.setattr(gpu, "require_pycuda", lambda: fake)
    monkeypatch.setattr(gpu, "_libcuda", lambda: fake)
    return fake


@pytest.fixture
def is_capturing() -> Callable[[], bool]:
    """Whether the lock of captures is held, as another thread sees it."""

    def held() -> bool:
        with ThreadPoolExecutor(1) as pool:
            is_free = pool.submit(lambda: ONE_CAPTURE.acquire(blocking=False) and not ONE_CAPTURE.release()).result()
        return not is_free

    return held


class ListSource(Source):
    """Frames from a list; an exception in it is raised, a callable is called first."""

    def __init__(self, items: list[Any], is_live: bool = False) -> None:
        super().__init__("list", 25.0, SIZE_HW, None if is_live else len(items), is_live)
        self.items = items

    def read(self) -> Frame | None:
        item = self.items[self._next_index] if self._next_index < len(self.items) else None
        if callable(item):
            item = item()
        if isinstance(item, BaseException):
            raise item
        return None if item is None else self._frame(item)


@pytest.fixture
def list_source() -> type[ListSource]:
    return ListSource


def make_contract(classes: int = 4, size_hw: tuple[int, int] = (45, 70), stages: int = 3) -> Contract:
    names = tuple(f"class {index}" for index in range(classes))
    strides = (32, 16, 8, 4)[:stages]
    ignore_id = 255 if classes < 256 else None
    return Contract("hand-made", size_hw, names, distinct_palette(classes), (0.0,) * 3, (1.0,) * 3, strides, ignore_id)


@pytest.fixture
def contract() -> Contract:
    return make_contract()


class HandModel:
    """A model of whole numbers: one convolution for each score map, so that every runtime must agree exactly.

    Weights go up to ``largest``: 300 is exact in float32 and not in bf16, and sums of the images used stay below 2^24.
    ``labels`` is the reference in NumPy; ``write`` the ONNX file, with ``break_it`` to spoil it first.
    """

    def __init__(self, contract: Contract, dtype: int = TensorProto.FLOAT, largest: int = 300) -> None:
        rng = np.random.default_rng(7)
        self.contract, self.dtype = contract, dtype
        count = contract.num_classes
        self.weights = [
            rng.integers(-largest, largest + 1, (count, 3, s, s)).astype(np.float32) for s in contract.strides
        ]
        sides = [4] * (len(contract.strides) - 1) + [2 * contract.strides[-1]]
        self.kernels = [rng.integers(0, 3, (count, 1, side, side)).astype(np.float32) for side in sides]

    def padded_hw(self) -> tuple[int, int]:
        coarsest = self.contract.strides[0]
        height, width = (-(-side // coarsest) * coarsest for side in self.contract.size_hw)
        return height, width

    def labels(self, image: np.ndarray) -> np.ndarray:
        from fcn_edge.skip_head import skip_head_numpy

        height, width = self.padded_hw()
        padded = np.zeros((height, width, 3), np.float32)
        padded[: image.shape[0], : image.shape[1]] = image
        scores = []
        for weight, s in zip(self.weights, self.contract.strides, strict=True):
            cells = padded.reshape(height // s, s, width // s, s, 3)
            scores.append(np.ascontiguousarray(np.einsum("iajbk,ckab->cij", cells, weight)[None], np.float32))
        return skip_head_numpy(scores, self.kernels, self.contract.size_hw)[0]

    def write(self, path: Path, break_it: Callable[[onnx.ModelProto], Any] = lambda model: None) -> Path:
        height, width = self.contract.size_hw
        below, right = (full - side for full, side in zip(self.padded_hw(), self.contract.size_hw, strict=True))
        np_type = helper.tensor_dtype_to_np_dtype(self.dtype)
        names = [f"scores_{index}" for index in range(len(self.weights))]
        tensors = [numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, below, right], np.int64), "pads")]
        nodes = [
            helper.make_node("Cast", ["image"], ["cast"], to=self.dtype),
            helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Pad", ["planes", "pads"], ["padded"]),
        ]
        for name, weight, s in zip(names, self.weights, self.contract.strides, strict=True):
            tensors.append(numpy_helper.from_array(weight.astype(np_type), f"w_{name}"))
            nodes.append(helper.make_node("Conv", ["padded", f"w_{name}"], [name], strides=[s, s], kernel_shape=[s, s]))
        kernel_names = [f"kernel_{index}" for index in range(len(names))]
        for name, kernel in zip(kernel_names, self.kernels, strict=True):
            tensors.append(numpy_helper.from_array(kernel.astype(np_type), name))
        head = helper.make_node(
            "SkipHead", [*names, *kernel_names], ["labels"], domain="fcn_edge", size=[height, width]
        )
        frame = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])
        answer = helper.make_tensor_value_info("labels", TensorProto.INT8, [1, height, width])
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("fcn_edge", 1)]
        graph = helper.make_graph([*nodes, head], "hand", [frame], [answer], tensors)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        helper.set_model_props(model, {METADATA_KEY: json_from_contract(self.contract)})
        break_it(model)
        path.write_bytes(model.SerializeToString())
        return path


@pytest.fixture
def hand_model() -> Callable[..., HandModel]:
    def make(classes: int = 4, size_hw: tuple[int, int] = (45, 70), stages: int = 3, **kwargs: Any) -> HandModel:
        return HandModel(make_contract(classes, size_hw, stages), **kwargs)

    return make
