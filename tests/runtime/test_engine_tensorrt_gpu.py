"""The GPU engine at work; every test here needs a GPU, and none has run where the reason for skipping is shown."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fcn_edge.errors import EngineError, ModelError
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.engine_tensorrt import TensorRtEngine
from fcn_edge.runtime.gpu import Gpu, require_pycuda
from fcn_edge.runtime.onnx_file import split_onnx
from fcn_edge.runtime.sidecar import Gpu as GpuName
from fcn_edge.runtime.sidecar import Options, Precision, Sidecar, read_sidecar, write_sidecar
from fcn_edge.runtime.tensorrt_library import PLUGIN_VARIABLE

pytestmark = pytest.mark.gpu

SIZE_HW = (180, 240)
RIG = Path(__file__).parents[1] / "rig"
CYCLES = int(os.environ.get("FCN_EDGE_CYCLES", 10_000))
"""Fewer show a large leak only, where minutes of a GPU are counted."""


def frames(count: int, size_hw: tuple[int, int] = SIZE_HW) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8) for seed in range(count)]


def write_engine(onnx_path: Path, batch: tuple[int, int, int], plugin: Path | None) -> Path:
    """Build on this machine; without a plugin the head is what TensorRT makes of its ONNX function."""
    from fcn_edge.export.to_engine import EngineBuilder

    options = Options(batch=batch)
    builder = EngineBuilder((lambda: plugin) if plugin else None)
    built = builder.build(onnx_path, "fp32", options)
    engine = onnx_path.with_name(f"{onnx_path.stem}-{batch[2]}-{'fused' if plugin else 'layers'}.engine")
    engine.write_bytes(built.plan)
    digests = [hashlib.sha256(data).hexdigest() for data in (built.plan, onnx_path.read_bytes())]
    write_sidecar(
        engine,
        Sidecar(
            contract=split_onnx(onnx_path).contract,
            precision=Precision(asked="fp32", found=built.found, audited=built.audited),
            plan_sha256=digests[0],
            onnx=onnx_path.name,
            onnx_sha256=digests[1],
            tensorrt=builder.library,
            cuda="",
            gpu=builder.gpu,
            plugin=builder.plugin,
            options=options,
        ),
    )
    return engine


@pytest.fixture(scope="module")
def onnx_path(lively_model, contract_of, tmp_path_factory) -> Path:
    from fcn_edge.export.to_onnx import onnx_from_model

    model = lively_model("fcn8s-edge-n", 11)
    path = tmp_path_factory.mktemp("gpu") / "m.onnx"
    path.write_bytes(onnx_from_model(model, contract_of(model, SIZE_HW)).SerializeToString())
    return path


@pytest.fixture(scope="module", params=["layers", "fused"])
def plugin(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """The library of the fused head, where engines that are opened look for it too; None: TensorRT's own layers."""
    if request.param == "layers":
        yield None
        return
    library = request.getfixturevalue("plugin_library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGIN_VARIABLE, str(library))
        yield library


@pytest.fixture(scope="module")
def engine_path(onnx_path: Path, plugin: Path | None) -> Path:
    return write_engine(onnx_path, (1, 1, 1), plugin)


@contextlib.contextmanager
def hogged(left_mib: int) -> Iterator[None]:
    """All but ``left_mib`` of the GPU's memory taken."""
    driver = require_pycuda()
    with Gpu() as gpu, gpu.active("taking memory"):
        free, _ = driver.mem_get_info()
        taken = driver.mem_alloc(free - (left_mib << 20))
        try:
            yield
        finally:
            taken.free()


def test_the_head_is_the_one_asked_for(engine_path: Path, plugin: Path | None) -> None:
    found = read_sidecar(engine_path).plugin
    assert (found and found.sha256) == (plugin and hashlib.sha256(plugin.read_bytes()).hexdigest())


@pytest.mark.parametrize("frame_hw", [SIZE_HW, (360, 480), (97, 131)])
def test_labels_are_those_of_the_cpu(onnx_path: Path, engine_path: Path, frame_hw: tuple[int, int]) -> None:
    with open_engine(onnx_path) as cpu, open_engine(engine_path) as gpu:
        assert gpu.contract == cpu.contract
        assert (gpu.backend, gpu.precision) == ("tensorrt", "fp32")
        for frame in frames(4, frame_hw):
            expected, found = cpu.infer(frame), gpu.infer(frame)
            assert (found.dtype, found.shape) == (np.uint8, frame_hw)
            assert len(np.unique(expected)) > 1
            # TensorRT computes FP32 convolutions in TF32 where the GPU has it: ten bits of mantissa.
            assert (found == expected).mean() > 0.99
        assert set(gpu.stages_ms) == set(cpu.stages_ms)


def test_labels_of_one_frame_survive_the_next(engine_path: Path) -> None:
    with open_engine(engine_path) as engine:
        first, second, third = frames(3)
        kept = engine.infer(first)
        copy = kept.copy()
        engine.infer(second)
        engine.infer(third)
        np.testing.assert_array_equal(kept, copy)
        np.testing.assert_array_equal(engine.infer(first), copy)


def test_graph_is_captured_and_gives_the_same(engine_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING), TensorRtEngine(engine_path) as replayed:
        assert replayed.is_graph, caplog.text
        with TensorRtEngine(engine_path, use_graph=False) as direct:
            assert not direct.is_graph
            for frame in frames(6):
                np.testing.assert_array_equal(replayed.infer(frame), direct.infer(frame))


def test_graph_is_not_slower(engine_path: Path) -> None:
    def latencies_ms(engine: TensorRtEngine, frame: np.ndarray) -> list[float]:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            engine.infer(frame)
            times.append((time.perf_counter() - started) * 1e3)
        return times

    (frame,) = frames(1)
    with TensorRtEngine(engine_path) as replayed, TensorRtEngine(engine_path, use_graph=False) as direct:
        for engine in (replayed, direct):
            latencies_ms(engine, frame)
        with_graph, without = (
            statistics.median(latencies_ms(replayed, frame)),
            statistics.median(latencies_ms(direct, frame)),
        )
    assert with_graph < 1.1 * without


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_frames_in_flight_come_back_in_order(engine_path: Path, count: int) -> None:
    with TensorRtEngine(engine_path) as engine:
        images = frames(count)
        expected = [engine.infer(image) for image in images]
        found = list(engine.infer_all(iter(images)))
        assert len(found) == count
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_loop_left_early_frees_its_places(engine_path: Path) -> None:
    with TensorRtEngine(engine_path) as engine:
        images = frames(4)
        expected = engine.infer(images[3])
        for _ in range(3):
            loop = engine.infer_all(images)
            next(loop)
            np.testing.assert_array_equal(engine.infer(images[3]), expected)
            loop.close()
        np.testing.assert_array_equal(engine.infer(images[3]), expected)


def test_two_loops_at_once_are_refused(engine_path: Path) -> None:
    with TensorRtEngine(engine_path) as engine:
        first, second = engine.infer_all(frames(5)), engine.infer_all(frames(5))
        next(first)
        with pytest.raises(EngineError, match="on their way"):
            next(second)


def test_engine_for_several_frames_runs_one(onnx_path: Path, engine_path: Path, plugin: Path | None) -> None:
    several = write_engine(onnx_path, (1, 1, 4), plugin)
    with open_engine(several) as engine, open_engine(engine_path) as single:
        for frame in frames(3):
            assert (engine.infer(frame) == single.infer(frame)).mean() > 0.99


def test_other_threads_are_refused(engine_path: Path) -> None:
    caught = []

    def use() -> None:
        try:
            engine.infer(frames(1)[0])
        except EngineError as exc:
            caught.append(str(exc))

    with open_engine(engine_path) as engine:
        thread = threading.Thread(target=use, name="stranger")
        thread.start()
        thread.join()
    assert "used in thread stranger" in caught[0]


def test_engines_in_several_threads_do_not_disturb_each_other(engine_path: Path) -> None:
    images = frames(8)
    with open_engine(engine_path) as engine:
        expected = [engine.infer(image) for image in images]
    wrong: list[object] = []

    def use() -> None:
        try:
            for _ in range(5):
                with open_engine(engine_path) as own:
                    for image, labels in zip(images, expected, strict=True):
                        if (own.infer(image) != labels).any():
                            wrong.append("labels differ")
        except EngineError as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_closed_engine_says_so(engine_path: Path) -> None:
    engine = open_engine(engine_path)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames(1)[0])


def test_engine_of_another_gpu_is_refused_when_opened(engine_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.engine"
    path.write_bytes(engine_path.read_bytes())
    write_sidecar(path, dataclasses.replace(read_sidecar(engine_path), gpu=GpuName(name="Other", sm=999)))
    with pytest.raises(ModelError, match="built for Other"):
        open_engine(path)


def test_out_of_memory_is_said_and_passes(engine_path: Path) -> None:
    open_engine(engine_path).close()  # CUDA's own modules are loaded by now
    with hogged(1), pytest.raises(EngineError, match="out of memory"):
        TensorRtEngine(engine_path)
    with open_engine(engine_path) as engine:
        engine.infer(frames(1)[0])


def test_lost_context_says_that_the_process_must_end(engine_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(RIG / "lose_context.py"), str(engine_path)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    said = json.loads(result.stdout)
    assert len(said) == 2
    assert all(text.endswith("start the program again") for text in said), said


def test_memory_is_reported(engine_path: Path) -> None:
    with TensorRtEngine(engine_path) as engine:
        assert 0 < engine.gpu_mib < 4096


@pytest.mark.slow
def test_ten_thousand_cycles_leak_nothing(engine_path: Path) -> None:
    (frame,) = frames(1)

    def held() -> tuple[float, float, int]:
        gc.collect()
        with Gpu() as gpu, gpu.active("asking"):
            used = gpu.used_mib()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return used, resident, len(list(Path("/proc/self/fd").iterdir())) + threading.active_count()

    before = None
    for cycle in range(CYCLES):
        with open_engine(engine_path) as engine:
            engine.infer(frame)
        if cycle == CYCLES // 20:  # caches of the driver and the allocators are full by now
            before = held()
    after = held()
    assert before is not None
    assert after[0] - before[0] < 16
    assert after[1] - before[1] < 64
    assert after[2] == before[2]
