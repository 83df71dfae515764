from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from fcn_edge.contract import METADATA_KEY
from fcn_edge.errors import EngineError, FcnEdgeError, MissingError, ModelError, UsageError
from fcn_edge.runtime import engine_openvino
from fcn_edge.runtime.engine import open_engine
from fcn_edge.runtime.onnx_file import split_onnx

pytest.importorskip("openvino")


def small_image(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 8, (*size_hw, 3), np.uint8)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize(("classes", "size_hw"), [(1, (32, 32)), (5, (45, 70)), (256, (33, 65))])
def test_labels_are_those_of_numpy(hand_model, tmp_path, classes, size_hw, stages):
    model = hand_model(classes, size_hw, stages)
    image = small_image(size_hw)
    expected = model.labels(image)
    with open_engine(model.write(tmp_path / "m.onnx"), threads=1) as engine:
        np.testing.assert_array_equal(engine.infer(image), expected)
        assert engine.contract == model.contract
        assert (engine.backend, engine.precision) == ("openvino", "fp32")
        assert set(engine.stages_ms) == {"resize", "network", "head", "restore"}
        assert engine.stages_ms["network"] > 0
    if classes > 1:
        assert len(np.unique(expected)) > 1, "a check against a constant picture shows nothing"


def test_labels_of_one_frame_survive_the_next(hand_model, tmp_path):
    model = hand_model()
    first, second = small_image(model.contract.size_hw, 1), small_image(model.contract.size_hw, 2)
    with open_engine(model.write(tmp_path / "m.onnx")) as engine:
        kept = engine.infer(first)
        engine.infer(second)
        np.testing.assert_array_equal(kept, model.labels(first))
        assert (kept != model.labels(second)).any()


def test_threads_may_share_an_engine(hand_model, tmp_path):
    """A web server answers requests in several threads; OpenVINO calls a request that is in use an error."""
    model = hand_model(5, (320, 448))
    frames = [small_image(model.contract.size_hw, seed) for seed in range(4)]
    expected = [model.labels(frame) for frame in frames]
    with open_engine(model.write(tmp_path / "m.onnx"), threads=1) as engine, ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for labels, wanted in zip(pool.map(engine.infer, frames), expected, strict=True):
                np.testing.assert_array_equal(labels, wanted)


def test_waiting_for_another_thread_is_no_time_of_the_network(hand_model, tmp_path):
    with open_engine(hand_model().write(tmp_path / "m.onnx"), threads=1) as engine:
        frame = small_image(engine.contract.size_hw)
        thread = threading.Thread(target=engine.infer, args=(frame,))
        with engine._in_use:
            thread.start()
            time.sleep(0.3)
        thread.join()
        assert 0 < sum(engine.stages_ms.values()) < 300


def said_by_a_fork(use):
    """What ``use()`` says in a forked child, which is given ten seconds."""
    ours, theirs = multiprocessing.Pipe()

    def child():
        try:
            theirs.send(repr(use()))
        except EngineError as exc:
            theirs.send(f"{type(exc).__name__}: {exc}")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    answer = ours.recv() if ours.poll(10) else "nothing"
    process.kill()
    process.join()
    return answer


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_refused_and_does_not_wait_for_a_thread_that_it_has_not(hand_model, tmp_path):
    """It has a copy of the lock, held by whoever held it at the fork, and of nobody to release it."""
    with open_engine(hand_model().write(tmp_path / "m.onnx"), threads=1) as engine:
        frame = small_image(engine.contract.size_hw)
        for held in (contextlib.nullcontext(), engine._in_use):
            with held:
                assert said_by_a_fork(lambda: engine.infer(frame)).startswith(
                    "EngineError: an engine works in the process that opened it and in no other; open one in each"
                )
                assert said_by_a_fork(engine.close) == "None"
        engine.infer(frame)


def test_an_engine_is_sent_to_no_other_process(hand_model, tmp_path):
    with (
        open_engine(hand_model().write(tmp_path / "m.onnx")) as engine,
        pytest.raises(EngineError, match=r"open one in each, .*get_context\('spawn'\)"),
    ):
        pickle.dumps(engine)


@pytest.mark.parametrize("shape", [(90, 140, 3), (1, 1, 3), (45, 70, 4), (45, 70), (45, 70, 1), (17, 301, 3)])
def test_any_frame_gives_labels_of_its_size(hand_model, tmp_path, shape):
    with open_engine(hand_model().write(tmp_path / "m.onnx")) as engine:
        labels = engine.infer(np.zeros(shape, np.uint8))
    assert (labels.shape, labels.dtype) == (shape[:2], np.uint8)


def test_grey_and_bgra_are_seen_as_bgr(hand_model, tmp_path):
    model = hand_model()
    grey = small_image(model.contract.size_hw)[:, :, 0]
    bgr = np.repeat(grey[:, :, None], 3, 2)
    with open_engine(model.write(tmp_path / "m.onnx")) as engine:
        for frame in (grey, grey[:, :, None], np.dstack([bgr, np.full_like(grey, 99)])):
            np.testing.assert_array_equal(engine.infer(frame), model.labels(bgr))


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_frame_is_refused(hand_model, tmp_path, frame):
    with open_engine(hand_model().write(tmp_path / "m.onnx")) as engine, pytest.raises(UsageError, match="frame"):
        engine.infer(frame)


def test_fp16_file_runs_and_says_so(hand_model, tmp_path):
    model = hand_model(dtype=TensorProto.FLOAT16, largest=1)
    image = small_image(model.contract.size_hw)
    with open_engine(model.write(tmp_path / "m.onnx")) as engine:
        assert engine.precision == "fp16"
        # With the f32 hint sums are exact, and only the score maps pass through 11 bits at the file's cast.
        assert (engine.infer(image) == model.labels(image)).mean() > 0.99


def test_closed_engine_says_so(hand_model, tmp_path):
    engine = open_engine(hand_model().write(tmp_path / "m.onnx"))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(np.zeros((4, 4, 3), np.uint8))


def drop_contract(model):
    del model.metadata_props[:]


def spoil_contract(model):
    next(entry for entry in model.metadata_props if entry.key == METADATA_KEY).value = '{"model": 3}'


def drop_head(model):
    del model.graph.node[-1]


def other_size(model):
    model.graph.node[-1].attribute[0].ints[0] = 7


def other_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def other_shape(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 999


def swapped_kernels(model):
    names = model.graph.node[-1].input
    names[3], names[5] = names[5], names[3]


def swapped_scores(model):
    names = model.graph.node[-1].input
    names[0], names[2] = names[2], names[0]


def unknown_operator(model):
    model.graph.node[1].op_type = "Transmogrify"


def damaged_bytes(model):
    """OpenVINO quotes the padding that it does not know, which is no UTF-8."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("auto_pad", b"\xae\x92"))


def circle(model):
    """A convolution reads what is made of its own output; OpenVINO would look for a beginning for minutes."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.input[0] = model.graph.node[-2].output[0]


def missing_kernel(model):
    model.graph.node[-1].input[4] = "nowhere"


def stored(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def in_another_file(tensor):
    """Its values are those of a file that lies in the current folder and is large enough."""
    Path("weights.bin").write_bytes(bytes(1 << 20))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def external_kernel(model):
    in_another_file(stored(model, "kernel_1"))


def external_weight(model):
    in_another_file(next(tensor for tensor in model.graph.initializer if tensor.name.startswith("w_")))


def external_constant(model):
    constant = helper.make_node("Constant", [], ["more"], value=helper.make_tensor("more", 1, [1], [0.0]))
    in_another_file(constant.attribute[0].t)
    model.graph.node.insert(0, constant)


def external_in_function(model):
    node = helper.make_node("Constant", [], ["more"], value=helper.make_tensor("more", 1, [1], [0.0]))
    in_another_file(node.attribute[0].t)
    model.functions.append(helper.make_function("fcn_edge", "F", [], ["more"], [node], []))


def short_kernel(model):
    stored(model, "kernel_1").raw_data = b"1234"


def short_weight(model):
    next(tensor for tensor in model.graph.initializer if tensor.name.startswith("w_")).raw_data = b"1234"


def kernel_of_type(number):
    def change(model):
        stored(model, "kernel_1").data_type = number

    return change


def weight_of_type(number):
    def change(model):
        next(tensor for tensor in model.graph.initializer if tensor.name.startswith("w_")).data_type = number

    return change


def constant_without_output(model):
    constant = helper.make_node("Constant", [], ["more"], value=helper.make_tensor("more", 1, [1], [0.0]))
    del constant.output[:]
    model.graph.node.insert(0, constant)


def made_twice(model):
    """A cast of itself: what follows names back to their makers, as the sums for CPUs without VNNI, found no end."""
    frame = model.graph.node[0].output[0]
    model.graph.node.insert(1, helper.make_node("Cast", [frame], [frame], to=TensorProto.FLOAT))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (external_kernel, "another file"),
        (external_weight, "another file"),
        (external_constant, "another file"),
        (external_in_function, "another file"),
        (short_kernel, "tensor 'kernel_1' cannot be read"),
        (short_weight, "cannot be read"),
        *[(kernel_of_type(number), "not of float32 or float16") for number in (0, TensorProto.STRING, 14, 99)],
        *[(weight_of_type(number), r"m\.onnx") for number in (0, 99)],
        (constant_without_output, "makes nothing"),
        (made_twice, "which is there before it"),
        (drop_contract, "carries no contract"),
        (spoil_contract, "contract cannot be read"),
        (drop_head, "last node is Conv"),
        (other_size, r"cuts to \[7, 70\]"),
        (other_input, "not uint8"),
        (other_shape, r"\[1, 999, 70, 3\]"),
        (swapped_kernels, "kernel 1"),
        (swapped_scores, "twice as fine"),
        (unknown_operator, "OpenVINO cannot load"),
        (damaged_bytes, "OpenVINO cannot load"),
        (circle, "which nothing before it makes"),
        (missing_kernel, "kernel 2"),
    ],
)
def test_onnx_of_another_kind_is_refused_in_a_sentence(hand_model, tmp_path, monkeypatch, break_it, said):
    monkeypatch.chdir(tmp_path)
    path = hand_model().write(tmp_path / "m.onnx", break_it)
    with pytest.raises(ModelError, match=said) as caught:
        open_engine(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_file_cut_anywhere_is_refused(hand_model, tmp_path):
    whole = hand_model().write(tmp_path / "m.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in (0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            open_engine(path)


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("text.onnx", b"not a model\n", ModelError, "no ONNX file"),
        ("empty.onnx", b"", ModelError, "0 bytes"),
        ("missing.onnx", None, ModelError, "does not exist"),
        ("missing.engine", None, ModelError, "fcn-edge build"),
        ("there.engine", b"plan", ModelError, "there.engine.json"),
        ("there.pt", b"", UsageError, "fcn-edge export"),
        ("there.txt", b"", UsageError, "unknown"),
        ("foo", None, UsageError, "camvid-n"),
    ],
)
def test_bad_model_arguments(tmp_path, monkeypatch, name, content, error, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        open_engine(name)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "threads"),
        ({"precision_hint": "f64"}, "f64"),
        *[({"threads": bad}, "give a whole number from 1 to 1024") for bad in (1.5, np.float32(1), True, "2")],
    ],
)
@pytest.mark.parametrize("model", ["echo://", "camvid-n"])
def test_bad_options(model, options, said):
    with pytest.raises(UsageError, match=said):
        open_engine(model, **options)


@pytest.mark.parametrize("ending", [".onnx", ".engine"])
def test_a_name_that_the_system_does_not_take_is_a_model_error(ending):
    """As is a folder that may not be entered, which root may; Python 3.14 says of both that there is no such file."""
    with pytest.raises(ModelError, match=r"model file x+\.\w+ (cannot be read: File name too long|does not exist)"):
        open_engine("x" * 300 + ending)


def test_folder_named_onnx_is_refused(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(FcnEdgeError) as caught:
        open_engine(tmp_path / "m.onnx")
    assert caught.value.exit_code == 4


def test_without_openvino_the_message_tells_how_to_get_it(hand_model, tmp_path, monkeypatch):
    path = hand_model().write(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError, match="pip install") as caught:
        open_engine(path)
    assert caught.value.exit_code == 3


def test_too_little_memory_is_not_blamed_on_the_file(hand_model, tmp_path, monkeypatch):
    """OpenVINO says so where ``ulimit -v`` or a container lets it start no thread."""

    def refuse(*arguments):
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:135:\nResource temporarily unavailable")

    path = hand_model().write(tmp_path / "m.onnx")
    monkeypatch.setattr(engine_openvino, "infer_request", refuse)
    with pytest.raises(MissingError, match=r"Resource temporarily unavailable.*no more memory or threads") as caught:
        open_engine(path)
    assert caught.value.exit_code == 3


def test_openvino_reports_nothing_home():
    import subprocess

    code = (
        "import sys; from fcn_edge.runtime.engine_openvino import require_openvino; require_openvino(); "
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_contract_and_network_can_be_read_alone(hand_model, tmp_path):
    model = hand_model()
    path = model.write(tmp_path / "m.onnx")
    parts = split_onnx(path)
    assert parts.contract == model.contract
    assert [kernel.shape for kernel in parts.kernels] == [(4, 1, 4, 4), (4, 1, 4, 4), (4, 1, 16, 16)]
    assert b"SkipHead" not in parts.network


def test_an_address_as_a_model_tells_no_password():
    with pytest.raises(UsageError, match="is unknown") as caught:
        open_engine("rtsp://admin:s3cret@cam/live")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("threads", [1, 3])
def test_network_and_head_keep_to_the_threads_given(hand_model, tmp_path, monkeypatch, threads):
    given, head = [], engine_openvino.skip_head
    monkeypatch.setattr(
        engine_openvino, "skip_head", lambda *args, threads: (given.append(threads), head(*args, threads=threads))[1]
    )
    with open_engine(hand_model().write(tmp_path / "m.onnx"), threads=threads) as engine:
        engine.infer(small_image(engine.contract.size_hw))
        assert set(given) == {threads}
        assert engine._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") <= threads
