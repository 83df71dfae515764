"""How a builder is set up and what is made of an inspector's words, on a stand-in for TensorRT and for a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcn_edge.errors import ModelError
from fcn_edge.export import to_engine
from fcn_edge.export.to_engine import EngineBuilder
from fcn_edge.runtime.sidecar import Gpu, Options

EXPECTED = {f"conv{index}": "fp16" for index in range(4)}
ADA, TURING = Gpu(name="RTX 4090", sm=89), Gpu(name="RTX 2080", sm=75)


class Config:
    """A builder's configuration that notes what it is told."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.targets: list[tuple[str, int]] = []
        self.num_compute_capabilities = 0
        self.cache: bytes | None = None

    def create_timing_cache(self, data: bytes) -> Any:
        content = data if data.startswith(b"timings") else b"nothing"  # as TensorRT does of what it cannot read
        return SimpleNamespace(serialize=lambda: content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if b"another GPU" in cache.serialize():
            return False
        self.cache = cache.serialize()
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"timings and more")

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_compute_capability(self, target: str, index: int) -> bool:
        self.targets.append((target, index))
        return index < self.num_compute_capabilities


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def open_fake(config: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a builder: (package, GPU, the inspector's words)."""

    def builder(package: str, gpu: Gpu, information: str = "{}") -> EngineBuilder:
        flags = {"REQUIRE_USER_ALLOCATION": "user"} if package == "tensorrt_rtx" else {}
        trt = SimpleNamespace(
            __name__=package,
            __version__="10.3.0",
            Builder=lambda log: SimpleNamespace(
                create_network=lambda flags: SimpleNamespace(),
                create_builder_config=lambda: config,
                build_serialized_network=lambda network, config: b"plan",
            ),
            BuilderFlag=SimpleNamespace(**flags),
            ComputeCapability=SimpleNamespace(SM75="SM75"),
            IProgressMonitor=object,
            LayerInformationFormat=SimpleNamespace(JSON="json"),
            NetworkDefinitionCreationFlag=SimpleNamespace(),
            OnnxParser=lambda network, log: SimpleNamespace(parse=lambda data: True),
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        )
        inspector = SimpleNamespace(get_engine_information=lambda form: information)
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
        monkeypatch.setattr(to_engine, "require_tensorrt", lambda: trt)
        monkeypatch.setattr(to_engine, "log_of", lambda module: SimpleNamespace(errors=list, messages=[]))
        monkeypatch.setattr(to_engine, "find_gpu", lambda: gpu)
        monkeypatch.setattr(to_engine, "onnx_for_engine", lambda path, **options: b"")
        monkeypatch.setattr(to_engine, "types_in_onnx", lambda path: EXPECTED)
        monkeypatch.setattr(to_engine, "types_in_network", lambda network: EXPECTED)
        monkeypatch.setattr(
            to_engine, "open_runtime", lambda trt: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
        )
        return EngineBuilder(None)

    return builder


def told(*layers: tuple[str, str]) -> str:
    return json.dumps(
        {
            "Layers": [
                {"Name": name, "LayerType": "conv", "Inputs": [{"Datatype": kind}], "Outputs": [{"Datatype": "Int8"}]}
                for name, kind in layers
            ]
        }
    )


@pytest.mark.parametrize("name", ["{ForeignNode[conv0...conv3]}", " + ".join(EXPECTED)])
def test_where_the_inspector_tells_no_types_the_networks_count(open_fake: Any, name: str) -> None:
    """TensorRT-RTX makes one layer of everything, from a frame of uint8 to labels of int8."""
    built = open_fake("tensorrt_rtx", ADA, told((name, "UINT8"))).build(Path("x.onnx"), "fp16", Options())
    assert (built.audited, built.found) == ("network", {"fp16": 1.0})


def test_what_the_inspector_tells_counts(open_fake: Any) -> None:
    for layers in ([("conv0", "Half"), ("conv1", "Half")], [(name, "Half") for name in EXPECTED]):
        built = open_fake("tensorrt", ADA, told(*layers)).build(Path("x.onnx"), "fp16", Options())
        assert (built.audited, built.found) == ("engine", {"fp16": 1.0})
    for layers in ([("conv0", "Float")], [(name, "Float") for name in EXPECTED]):
        with pytest.raises(ModelError, match=r"the engine of x\.onnx was to be fp16, but its layers run in fp32 100%"):
            open_fake("tensorrt", ADA, told(*layers)).build(Path("x.onnx"), "fp16", Options())


@pytest.mark.parametrize(
    ("package", "gpu", "bound", "flags", "targets"),
    [
        ("tensorrt", ADA, ADA, [], []),
        ("tensorrt", TURING, TURING, [], []),
        ("tensorrt_rtx", ADA, None, ["user"], []),
        ("tensorrt_rtx", TURING, TURING, ["user"], [("SM75", 0)]),
    ],
)
def test_what_tensorrt_rtx_is_told_besides(
    open_fake: Any, config: Config, package: str, gpu: Gpu, bound: Gpu | None, flags: list, targets: list
) -> None:
    """To allocate nothing while it runs, for CUDA graphs; and Turing, which its engines for all others leave out."""
    builder = open_fake(package, gpu, told(*((name, "Half") for name in EXPECTED)))
    assert builder.gpu == bound
    builder.build(Path("x.onnx"), "fp16", Options())
    assert (config.flags, config.targets, config.num_compute_capabilities) == (flags, targets, len(targets))


@pytest.mark.parametrize(
    ("before", "force", "after"),
    [
        (None, False, b"timings and more"),
        (b"", False, b"timings and more"),
        (b"nothing", False, b"timings and more"),
        (b"timings", False, b"timings and more"),
        (b"timings of another GPU", False, b"timings and more"),
        (b"a checkpoint", False, b"a checkpoint"),
        (b"a checkpoint", True, b"timings and more"),
    ],
)
def test_a_timing_cache_replaces_nothing_else(
    open_fake: Any, config: Config, tmp_path: Path, caplog: Any, before: bytes | None, force: bool, after: bytes
) -> None:
    """A mistyped name must not cost the file that it means; and no timings of it are taken."""
    path = tmp_path / "best.pt"
    if before is not None:
        path.write_bytes(before)
    builder = open_fake("tensorrt", ADA, told(*((name, "Half") for name in EXPECTED)))
    assert builder.build(Path("x.onnx"), "fp16", Options(), path, force=force).plan == b"plan"
    assert path.read_bytes() == after
    assert ("is left as it is" in caplog.text) == (after == before)
    assert config.cache == (before if before == b"timings" else b"nothing")


def test_what_the_caller_raises_is_no_fault_of_tensorrt(open_fake: Any, config: Any) -> None:
    """A builder that was stopped gives no plan, which would be told as an engine that could not be built."""
    builder = open_fake("tensorrt", ADA)

    def stopped(network: Any, config: Any) -> None:
        config.progress_monitor.phase_start("engine", None, 4)

    builder._builder.build_serialized_network = stopped

    def full(what: str, done: int, total: int) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left on device"):
        builder.build(Path("x.onnx"), "fp16", Options(), on_progress=full)
    with pytest.raises(ModelError, match=r"could not build an engine of x\.onnx"):
        builder.build(Path("x.onnx"), "fp16", Options())
