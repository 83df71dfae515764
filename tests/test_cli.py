"""The command line: every command on bad input gives a sentence and the documented exit code, and leaves nothing."""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge import doctor, street
from fcn_edge.benchmarks import report
from fcn_edge.cli import main

USAGE, ENVIRONMENT, MODEL, SOURCE = 2, 3, 4, 5


def call(*argv: object) -> int:
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as exc:  # argparse's way out
        return int(exc.code or 0)


@pytest.fixture(scope="module")
def bad(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are not what they seem; the tests share it, as commands leave what they read alone."""
    tmp_path = tmp_path_factory.mktemp("bad")
    checkpoint, model = (trained / "run" / "best.pt").read_bytes(), (trained / "model.onnx").read_bytes()
    (tmp_path / "cut.pt").write_bytes(checkpoint[: len(checkpoint) // 2])
    (tmp_path / "cut.onnx").write_bytes(model[: len(model) // 2])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("this is no model\n" * 40)
    (tmp_path / "text.pt").write_text("this is no checkpoint\n" * 40)
    (tmp_path / "text.mp4").write_text("this is no video\n" * 40)
    (tmp_path / "text.engine").write_text("this is no engine\n" * 40)
    (tmp_path / "no_images").mkdir()
    image = cv2.imencode(".png", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    for folder in ("images/train", "images/val", "masks/train", "masks/val", "frames"):
        (tmp_path / "broken" / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "broken" / "images" / split / "a.png").write_bytes(image[: len(image) // 2])
        (tmp_path / "broken" / "masks" / split / "a.png").write_bytes(
            cv2.imencode(".png", np.zeros((64, 96), np.uint8))[1].tobytes()
        )
    (tmp_path / "broken" / "classes.json").write_bytes((trained / "data" / "classes.json").read_bytes())
    street.write_dataset(tmp_path / "other", train=1, val=1, size_hw=(64, 96))
    (tmp_path / "other" / "classes.json").write_text('{"names": ["road", "rest"]}')
    (tmp_path / "broken" / "frames" / "0.png").write_bytes(image)
    (tmp_path / "broken" / "frames" / "1.png").write_bytes(image[: len(image) // 2])
    return tmp_path


# Arguments, with {bad} and {good} for the two folders and {out} for a place that must stay empty; exit code; a word
# that the sentence must hold.
CASES = [
    ("train --data {bad}/missing --out {out}", USAGE, "missing"),
    ("train --data {bad}/no_images --out {out}", USAGE, "layout"),
    ("train --data {bad}/broken --out {out}", USAGE, "a.png"),
    ("train --data {good}/data --model nonsense --out {out}", USAGE, "nonsense"),
    ("train --data {good}/data --size 0x0 --out {out}", USAGE, "0x0"),
    ("train --data {good}/data --size 1000000x1000000 --out {out}", USAGE, "1000000"),
    ("train --data {good}/data --size large --out {out}", USAGE, "large"),
    ("train --data {good}/data --epochs 0 --out {out}", USAGE, "0"),
    ("train --data {good}/data --holdout nothing --out {out}", USAGE, "nothing"),
    ("train --data {good}/data --classes Road,Unicorn --out {out}", USAGE, "Unicorn"),
    ("train --data {good}/data --config {bad}/missing.toml --out {out}", USAGE, "missing.toml"),
    ("train --data {good}/data --config {bad}/text.pt --out {out}", USAGE, "text.pt"),
    ("train --data {good}/data --init {bad}/text.pt --out {out}", MODEL, "text.pt"),
    ("eval {bad}/missing.pt --data {good}/data", MODEL, "missing.pt"),
    ("eval {bad}/missing.onnx --data {good}/data", MODEL, "missing.onnx"),
    ("eval {bad}/cut.pt --data {good}/data", MODEL, "cut.pt"),
    ("eval {bad}/cut.onnx --data {good}/data", MODEL, "cut.onnx"),
    ("eval {bad}/empty.pt --data {good}/data", MODEL, "empty.pt"),
    ("eval {bad}/empty.onnx --data {good}/data", MODEL, "empty.onnx"),
    ("eval {bad}/text.onnx --data {good}/data", MODEL, "text.onnx"),
    ("eval nonsense --data {good}/data", USAGE, "nonsense"),
    ("eval {good}/model.onnx --data {bad}/missing", USAGE, "missing"),
    ("eval {good}/model.onnx --data {good}/data --classes =Road", USAGE, "has no name before the '='"),
    ("eval {good}/model.onnx --data {good}/data --split nowhere", USAGE, "nowhere"),
    ("eval {good}/model.onnx --data {bad}/broken", USAGE, "a.png"),
    ("eval {good}/model.onnx --data {bad}/other", MODEL, "classes"),
    ("export {bad}/missing.pt -o {out}/x.onnx", MODEL, "missing.pt"),
    ("export {bad}/cut.pt -o {out}/x.onnx", MODEL, "cut.pt"),
    ("export {bad}/text.pt -o {out}/x.onnx", MODEL, "text.pt"),
    ("export camvid-s -o {out}/x.onnx", USAGE, "fcn-edge build camvid-s -o DIR"),
    ("export camvid-s -o {out}/x.onnx --precision int8", USAGE, "fcn-edge build camvid-s -o DIR"),
    ("export {good}/run/best.pt -o {out}/x.onnx --size 0x0", USAGE, "0x0"),
    ("export {good}/run/best.pt -o {out}/x.onnx --size 1000000x1000000", USAGE, "1000000"),
    ("export {good}/run/best.pt -o {good}/model.onnx", USAGE, "--force"),
    ("build {bad}/missing.onnx -o {out}", MODEL, "missing.onnx"),
    ("build {bad}/cut.pt -o {out}", MODEL, "cut.pt"),
    ("build {bad}/text.onnx -o {out}", MODEL, "text.onnx"),
    ("build nonsense -o {out}", USAGE, "nonsense"),
    ("build {good}/model.onnx -o {out} --precision int4", USAGE, "int4"),
    ("build {good}/model.onnx -o {out} --precision int8", USAGE, "--calib"),
    ("build {good}/model.onnx", USAGE, "-o DIR"),
    ("stream {bad}/missing.onnx synthetic://street {out}/x.mp4", MODEL, "missing.onnx"),
    ("stream {bad}/cut.onnx synthetic://street {out}/x.mp4", MODEL, "cut.onnx"),
    ("stream {bad}/text.onnx synthetic://street {out}/x.mp4", MODEL, "text.onnx"),
    ("stream nonsense synthetic://street {out}/x.mp4", USAGE, "nonsense"),
    ("stream {good}/model.onnx {bad}/missing.mp4 {out}/x.mp4", SOURCE, "missing.mp4"),
    ("stream {good}/model.onnx {bad}/text.mp4 {out}/x.mp4", SOURCE, "text.mp4"),
    ("stream {good}/model.onnx {bad}/no_images {out}/x.mp4", SOURCE, "no_images"),
    ("stream {good}/model.onnx {bad}/*.tiff {out}/x.mp4", SOURCE, "tiff"),
    ("stream {good}/model.onnx {bad}/broken/frames {out}/x.mp4", SOURCE, "1.png"),
    ("stream {good}/model.onnx synthetic://street?size=0x0 {out}/x.mp4", SOURCE, "0x0"),
    ("stream {good}/model.onnx synthetic://street?size=1000000x1000000 {out}/x.mp4", SOURCE, "1000000"),
    ("stream {good}/model.onnx synthetic://street {out}/x.xyz", USAGE, "xyz"),
    ("stream {good}/model.onnx synthetic://street --serve nowhere", USAGE, "nowhere"),
    ("stream {good}/model.onnx synthetic://street --serve 127.0.0.1:99999", USAGE, "99999"),
    ("stream {good}/model.onnx synthetic://street --max-reconnects -1", USAGE, "-1"),
    ("stream {good}/model.onnx http://127.0.0.1:9/none {out}/x.mp4", SOURCE, "127.0.0.1:9"),
    ("bench {bad}/missing.onnx -o {out}", MODEL, "missing.onnx"),
    ("bench {bad}/text.onnx -o {out}", MODEL, "text.onnx"),
    ("bench nonsense -o {out}", USAGE, "nonsense"),
    ("bench {good}/model.onnx --duration soon -o {out}", USAGE, "soon"),
    ("inspect {bad}/missing.onnx", MODEL, "missing.onnx"),
    ("inspect {bad}/cut.onnx", MODEL, "cut.onnx"),
    ("inspect {bad}/cut.pt", MODEL, "cut.pt"),
    ("inspect {bad}/text.onnx", MODEL, "text.onnx"),
    ("inspect {bad}/text.engine", MODEL, "text.engine"),
    ("demo --minutes 0 --out {out}", USAGE, "0"),
    ("nonsense", USAGE, "nonsense"),
]  # fmt: skip


def seen(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files in a folder, and what changes where one is written."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("line", "code", "word"), CASES, ids=[case[0] for case in CASES])
def test_bad_input(
    line: str, code: int, word: str, bad: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = [seen(folder) for folder in (bad, trained)]
    assert call(*line.format(bad=bad, good=trained, out=out).split()) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert word in printed.err
    assert not [path for path in out.rglob("*") if path.is_file()] if out.exists() else True
    assert [seen(folder) for folder in (bad, trained)] == before


@pytest.mark.parametrize(
    "line",
    [
        "stream {name}.onnx synthetic://street",
        "eval {name}.onnx --data {good}/data",
        "eval {name}.pt --data {good}/data",
        "bench {name}.engine",
        "export {name}.pt -o {out}/x.onnx",
        "build {name}.onnx -o {out}",
        "inspect {name}.onnx",
    ],
)
def test_a_model_that_the_system_does_not_let_read_is_a_model_error(line: str, trained: Path, tmp_path: Path, capfd):
    """By its name, as root may enter every folder."""
    assert call(*line.format(name="x" * 300, good=trained, out=tmp_path / "out").split()) == MODEL
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "x" * 300 in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "line",
    [
        "{a}",
        "stream {a} 0",
        "stream camvid-n {a}",
        "stream camvid-n 0 null:// --serve {a}",
        "stream camvid-n 0 --threads {a}",
        "stream camvid-n 0 --mode {a}",
        "stream camvid-n 0 --unknown {a}",
        "stream camvid-n synthetic://street?seed={a}",
        "inspect {a}",
        "inspect {a}.onnx",
        "eval {a} --data .",
        "eval camvid-n --data {a}",
        "build {a} -o out",
        "build camvid-n -o out --precision int8 --method mse --calib {a}",
        "build camvid-n -o out --gate-frames {a}",
    ],
)
@pytest.mark.parametrize("address", ["rtsp://u:s3cret@h/x", "rtsp:/u:s3cret@h/x", "u:s3cret@h:554/x"])
def test_an_address_in_the_wrong_place_shows_no_password(
    line: str, address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*line.format(a=address).split()) in (USAGE, MODEL, SOURCE)
    out, err = capsys.readouterr()
    assert "***@h" in err
    assert "s3cret" not in out + err


def test_a_file_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", "\x1b[2Jx.onnx") == MODEL
    assert "\\x1b[2Jx.onnx" in capsys.readouterr().err


def test_eval_json_is_one_object(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for model in ("run/best.pt", "model.onnx"):
        assert call("eval", trained / model, "--data", trained / "data", "--json") == 0
        results[model] = json.loads(capsys.readouterr().out)
    result = results["model.onnx"]
    assert set(result) == {
        "model",
        "backend",
        "data",
        "split",
        "images",
        "miou",
        "pixel_accuracy",
        "per_class",
        "confusion",
    }
    assert result["images"] == 2
    assert result["miou"] == pytest.approx(results["run/best.pt"]["miou"], abs=1e-3)


def test_stream_json_and_video(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mp4"
    source = "synthetic://street?size=64x96&frames=9"
    assert call("stream", trained / "model.onnx", source, out, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames_in"], summary["frames_out"], summary["ended"]) == (9, 9, "eof")
    capture = cv2.VideoCapture(str(out))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 9
    assert call("stream", trained / "model.onnx", source, out) == USAGE  # nothing is overwritten without --force
    assert call("stream", trained / "model.onnx", source, tmp_path / "two.mp4", tmp_path / "two.jsonl") == 0
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == 9


def test_options_may_stand_between_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source = trained / "model.onnx", "synthetic://street?size=64x96&frames=2"
    assert call("stream", model, source, "--force", tmp_path / "a.mp4", "--opacity", "1", tmp_path / "a.jsonl") == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    assert call("inspect", "--json", model, model) == USAGE
    assert "unrecognized arguments" in capsys.readouterr().err
    assert call("stream", "--force", model) == USAGE
    assert "required: SOURCE\n" in capsys.readouterr().err


def test_behind_two_dashes_there_are_no_options(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "synthetic://street?size=48x64&frames=2"
    assert call("stream", "--threads", "1", "--", "echo://", source, "-e.jsonl") == 0
    assert len(Path("-e.jsonl").read_text().splitlines()) == 2


def test_inspect_prints_params_and_contract(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("run/best.pt", "model.onnx"):
        assert call("inspect", trained / model, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["contract"]["model"] == "fcn8s-edge-n"
        assert facts["params"] == pytest.approx(0.99e6, rel=0.05)


def test_inspect_takes_the_name_of_a_model_that_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", "camvid-n", "--json") == 0
    assert json.loads(capsys.readouterr().out)["contract"]["class_names"][0] == "Sky"


@pytest.mark.parametrize("command", [["inspect", "camvid-n", "--json"], ["doctor", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(command: list[str]) -> None:
    """Such as head: nobody reads any more, be it one line that is left or more than a buffer holds."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-c", "from fcn_edge.cli import main; raise SystemExit(main())"]
    try:
        done = subprocess.run([*program, *command], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_log_that_nobody_reads_any_more_ends_no_stream(tmp_path: Path, read_frames) -> None:
    """Such as 2>&1 into a tee that dies: the recording goes on, and an error keeps its exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "fcn_edge", "stream", "echo://"]
    source = "synthetic://street?size=48x64&frames=75&live=1"  # three seconds, in which it wants to tell how it goes
    try:
        done = subprocess.run([*program, source, tmp_path / "o.mp4"], stdout=subprocess.PIPE, stderr=writing)
        bad = subprocess.run([*program, "missing.mp4"], stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert b"ended: eof" in done.stdout
    assert read_frames(tmp_path / "o.mp4") >= 75
    assert bad.returncode == SOURCE


def test_a_place_that_may_not_be_entered_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/closed/x")

    monkeypatch.setattr(doctor, "examine", refuse)
    assert call("doctor") == USAGE
    assert (
        capsys.readouterr().err
        == "fcn-edge: /closed/x cannot be reached (Permission denied); allow it, or give another place\n"
    )


def test_outputs_that_are_closed_are_no_error(tmp_path: Path, read_frames) -> None:
    stream = f"{sys.executable} -m fcn_edge stream echo:// 'synthetic://street?size=48x64&frames=75&live=1'"
    done = subprocess.run(f"{stream} {tmp_path}/o.mp4 >&-", shell=True, stderr=subprocess.PIPE)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert read_frames(tmp_path / "o.mp4") >= 75
    done = subprocess.run(f"{stream} --json 2>&-", shell=True, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["frames_out"] <= 75, "what goes to stderr does not come on stdout instead"


def test_what_native_libraries_print_is_no_result(tmp_path: Path) -> None:
    """A Jetson's camera says GST_ARGUS: ... with printf; it comes out at once or when the process ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes, atexit\n"
        "from fcn_edge.runtime import engine_echo\n"
        "infer = engine_echo.EchoEngine.infer\n"
        "def chatty(self, frame):\n"
        "    ctypes.CDLL(None).puts(b'GST_ARGUS: chatter')\n"
        "    return infer(self, frame)\n"
        "engine_echo.EchoEngine.infer = chatty\n"
        "atexit.register(ctypes.CDLL(None).puts, b'CONSUMER: done')\n"
    )
    command = [
        sys.executable,
        "-m",
        "fcn_edge",
        "stream",
        "echo://",
        "synthetic://street?size=48x64&frames=2",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout)["frames_out"] == 2
    assert done.stderr.count("GST_ARGUS: chatter") == 2
    assert "CONSUMER: done" in done.stderr


def test_a_stream_whose_source_fails_midway_still_prints_its_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert call("stream", "echo://", tmp_path, "--json") == SOURCE
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames_out"], summary["ended"]) == (1, "source_lost")


def test_the_path_of_an_export_comes_on_stdout_on_a_terminal_too(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """A bar that is drawn takes what is printed beside it to stderr."""
    monkeypatch.setattr(report, "Console", functools.partial(report.Console, force_terminal=True))
    assert call("export", trained / "run/best.pt", "-o", tmp_path / "x.onnx") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "x.onnx")


@pytest.fixture
def read_frames():
    def count(path: Path) -> int:
        return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))

    return count


def test_a_full_disk_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("fcn_edge.benchmarks.report.write_atomically", refuse)
    out = tmp_path / "report"
    assert call("bench", trained / "model.onnx", "--duration", "0.1s", "-o", out) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"fcn-edge: the disk is full ({out / 'bench.md'}); make room")


@pytest.fixture
def without_gpu_packages(monkeypatch) -> None:
    """As if they were not installed."""
    for name in ("pycuda", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_gpu_packages")
def test_doctor_shows_remedies_as_they_are_typed(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert call("doctor") == 0
    assert "fcn-edge[gpu]" in capsys.readouterr().out


def test_doctor_calls_tensorrt_by_one_name(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx").mkdir()
    (tmp_path / "tensorrt_rtx" / "__init__.py").touch()  # which is all that doctor asks of it
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.syspath_prepend(tmp_path)
    assert call("doctor", "--json") == 0
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["TensorRT"]["found"]
    assert "(tensorrt_rtx)" in findings["TensorRT"]["detail"]
    assert "tensorrt_rtx" not in findings


def installed(folder: Path, name: str, version: str) -> None:
    """A package that only says its version."""
    for path, text in ((f"{name}/__init__.py", ""), (f"{name}-{version}.dist-info/METADATA", f"Version: {version}\n")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)


def test_doctor_takes_the_tensorrt_that_a_build_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    """JetPack 5 and 6.0 have TensorRT 8, which build refuses; TensorRT-RTX beside it is used."""
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "tensorrt", "8.5.2.2")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)

    def finding() -> dict[str, object]:
        assert call("doctor", "--json") == 0
        return next(one for one in json.loads(capsys.readouterr().out)["findings"] if one["name"] == "TensorRT")

    found = finding()
    assert not found["found"]
    assert found["detail"].startswith("TensorRT 8.5.2.2 is too old: engines need 10.3")
    assert "JetPack 6.1 or newer" in found["remedy"]
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    installed(tmp_path, "tensorrt_rtx", "1.7.1.116")
    found = finding()
    assert (found["found"], found["detail"]) == (True, "1.7.1.116, GPU engines (tensorrt_rtx)")


def test_doctor_imports_what_may_lack_a_library(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    """PyCUDA without cuRAND, or made for another Python, is there and of no use; so is a TensorRT without its .so."""
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "tensorrt", "10.3.0")
    installed(tmp_path, "pycuda", "2026.1")
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcurand.so.10: cannot open it')")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)

    def findings() -> dict[str, dict[str, object]]:
        assert call("doctor", "--json") == 0
        return {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}

    found = findings()
    assert found["TensorRT"]["found"]
    assert found["openvino"]["found"]
    assert not found["pycuda"]["found"]
    assert "libcurand.so.10: cannot open it" in found["pycuda"]["detail"]
    assert "--force-reinstall pycuda" in found["pycuda"]["remedy"]
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open it')")
    found = findings()
    assert not found["TensorRT"]["found"]
    assert "libnvinfer.so.10" in found["TensorRT"]["detail"]
    assert found["TensorRT"]["remedy"]


@pytest.mark.parametrize(
    ("governor", "detail", "has_remedy"),
    [
        ("powersave\n", "CPU governor powersave", True),
        ("performance\n", "CPU governor performance", False),
        (None, "this machine tells none", False),
    ],
)
def test_doctor_tells_how_clocks_are_set(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path, governor: str | None, detail: str, has_remedy: bool
) -> None:
    place = tmp_path / "governor"
    if governor:
        place.write_text(governor)
    monkeypatch.setattr(doctor, "_GOVERNOR", place)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert call("doctor", "--json") == 0
    found = next(one for one in json.loads(capsys.readouterr().out)["findings"] if one["name"] == "power mode")
    assert (found["found"], found["detail"], bool(found["remedy"])) == (True, detail, has_remedy)


def test_doctor_tells_that_tensorrt_rtx_cannot_take_the_fused_head(
    capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path
) -> None:
    for name in ("tensorrt_rtx/__init__.py", "tensorrt_rtx_libs/__init__.py", "tensorrt_rtx_libs/libtensorrt_rtx.so.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    plugin = tmp_path / "plugin.so"
    plugin.touch()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FCN_EDGE_PLUGIN", str(plugin))
    command = f"ln -sf libtensorrt_rtx.so.1 {tmp_path}/tensorrt_rtx_libs/libtensorrt_rtx.so"
    assert call("doctor", "--json") == 0
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    assert not findings["fused head for TensorRT"]["found"]
    assert findings["fused head for TensorRT"]["remedy"].endswith(command)
    monkeypatch.setenv("COLUMNS", "80")
    assert call("doctor") == 0
    shown = "".join(line.split("│")[4].strip() for line in capsys.readouterr().out.splitlines() if line.count("│") == 5)
    assert command.replace(" ", "") in shown.replace(" ", "")
    subprocess.run(command, shell=True, check=True)
    assert call("doctor", "--json") == 0
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["fused head for TensorRT"]["found"]


@pytest.mark.usefixtures("without_gpu_packages")
def test_doctor_names_a_remedy_for_each_gap(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--json") == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"fcn_edge", "OpenCV", "openvino", "NVIDIA GPU", "TensorRT"} <= {entry["name"] for entry in findings}
    assert all(entry["remedy"] for entry in findings if not entry["found"])


@pytest.mark.parametrize(
    "line",
    [
        "demo --out",
        "train --data d --out",
        "train --data",
        "train --data d --config",
        "eval camvid-n --data",
        "export -o a.onnx",
        "export a.pt -o",
        "export a.pt -o b.onnx --calib",
        "build camvid-n -o",
        "build camvid-n --timing-cache",
        "build camvid-n --plugin",
        "build camvid-n --calib",
        "bench camvid-n -o",
        "bench camvid-n --data",
    ],
)
def test_an_empty_path_is_not_the_folder_that_one_is_in(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*line.split(), "") == USAGE
    said = capsys.readouterr().err
    assert "is a variable empty?" in said or "no data folder is given" in said
    assert not list(tmp_path.iterdir())


def test_the_help_of_train_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--help") == 0
    shown = capsys.readouterr().out
    for markup in ("`", ":func:", "(None)", "TrainConfig"):
        assert markup not in shown
    assert "softmax loss beside it (0.0)" in " ".join(shown.split())
