from __future__ import annotations

import fcntl
import itertools
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcn_edge.errors import EngineError, SourceError, UsageError
from fcn_edge.runtime import open_engine, open_sink, open_source, run
from fcn_edge.runtime.engine import Engine
from fcn_edge.runtime.engine_echo import ECHO_CONTRACT, EchoEngine
from fcn_edge.runtime.reader import Reader
from fcn_edge.runtime.sink import NullSink, Sink

FIELDS = ["frames_in", "frames_out", "dropped", "reconnects", "stalls", "fps", "latency_ms", "age_ms", "ended"]


class ListSink(Sink):
    def __init__(self, fails_at: int = -1) -> None:
        self.results, self.kept, self.fails_at = [], None, fails_at

    def write(self, result):
        if len(self.results) == self.fails_at:
            raise OSError("sink is broken")
        self.results.append(result)

    def close(self, keep=True):
        self.kept = keep


class BrokenEngine(EchoEngine):
    """Answers with ``answer``, or raises it."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def infer(self, frame_bgr):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def echo_to_file(spec, path):
    with (
        open_source(spec) as source,
        open_engine("echo://") as engine,
        open_sink(path, contract=engine.contract, fps=source.fps) as sink,
    ):
        return run(source, engine, sink)


def run_echo(source, sink, **options):
    with EchoEngine() as engine:
        return run(source, engine, sink, **options)


def test_video_to_video_in_order_and_nothing_lost(tmp_path, make_video, read_video):
    path = make_video(tmp_path / "in.mp4", 20)
    out = tmp_path / "out.mp4"
    summary = echo_to_file(path, out)
    assert (summary.frames_in, summary.frames_out, summary.dropped, summary.ended) == (20, 20, 0, "eof")
    # Grey levels rise with the index, in the input as in the four bands over it; opacity is one half.
    levels = [float(np.median(image)) for image in read_video(out)]
    assert len(levels) == 20
    assert np.median(levels[:5]) < np.median(levels[-5:])
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FPS) == 25


def test_summary_has_the_fields_of_the_contract(list_source, marks):
    summary = run_echo(list_source([marks[0](index) for index in range(7)]), NullSink())
    fields = summary.to_dict()
    assert list(fields) == FIELDS
    for name in ("latency_ms", "age_ms"):
        assert list(fields[name]) == ["p50", "p90", "p95", "p99", "max", "mean"]
        assert 0 < fields[name]["p50"] <= fields[name]["p99"] <= fields[name]["max"]
    assert fields["age_ms"]["mean"] > fields["latency_ms"]["mean"]
    assert fields["fps"] > 0


@pytest.mark.parametrize("spec", ["echo://", "street-7.onnx"])
def test_a_status_tells_which_model_runs(list_source, marks, hand_model, tmp_path, spec):
    name = spec
    if "://" not in spec:
        spec = hand_model().write(tmp_path / spec)
    seen = []
    with open_engine(spec) as engine:
        assert engine.name == name
        run(list_source([marks[0](0)]), engine, NullSink(), on_status=seen.append, status_every_s=0)
    assert {status.engine for status in seen} == {name}
    assert name not in str(seen[0]), "the command has said it"
    run_echo(list_source([marks[0](0)]), NullSink(), on_status=seen.append, status_every_s=0)
    assert seen[-1].engine == "", "an engine of somebody's own need not have a name"


def test_frames_labels_and_pictures_belong_together(list_source, marks):
    sink = ListSink()
    images = [marks[0](index, (10 + index, 20)) for index in range(20)]
    run_echo(list_source(images), sink)
    assert [result.frame.index for result in sink.results] == list(range(20))
    for image, result in zip(images, sink.results, strict=True):
        np.testing.assert_array_equal(result.frame.image_bgr, image)
        assert result.labels.shape == image.shape[:2]
        assert (result.labels == int(image[0, 0, 1]) * 4 // 256).all()
        assert result.picture_bgr.shape == image.shape
    assert sink.kept is True


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7), (5, 7, 1), (5, 7, 4), (1, 900, 3)])
def test_frames_of_any_shape(list_source, tmp_path, shape):
    with open_sink([tmp_path / "o.mp4", tmp_path / "f"], contract=ECHO_CONTRACT) as sink:
        assert run_echo(list_source([np.full(shape, 9, np.uint8)] * 3), sink).frames_out == 3
    assert len(list((tmp_path / "f").iterdir())) == 6


def test_limit(list_source, marks):
    sink = ListSink()
    summary = run_echo(list_source([marks[0](0)] * 50), sink, max_frames=5)
    assert (summary.ended, summary.frames_out, len(sink.results)) == ("limit", 5, 5)
    with pytest.raises(UsageError, match="at least 1"):
        run_echo(list_source([]), NullSink(), max_frames=0)


def test_a_limit_between_two_numbers_ends_the_stream_too(list_source, marks):
    summary = run_echo(list_source([marks[0](0)] * 50), NullSink(), max_frames=2.5)
    assert (summary.ended, summary.frames_out) == ("limit", 3)
    with pytest.raises(UsageError, match="at least 1"):
        run_echo(list_source([marks[0](0)]), NullSink(), max_frames=float("nan"))


def test_source_without_frames(list_source):
    summary = run_echo(list_source([]), NullSink())
    assert (summary.frames_out, summary.ended, summary.latency_ms.p95) == (0, "eof", None)


def slowly(image, seconds):
    def give():
        time.sleep(seconds)
        return image

    return give


def test_live_source_keeps_the_newest_and_counts_the_rest(list_source, marks):
    source = list_source([slowly(marks[0](index), 0.005) for index in range(60)], is_live=True)
    sink = ListSink()
    summary = run(source, EchoEngine(delay_s=0.03), sink)
    indexes = [result.frame.index for result in sink.results]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == 59
    assert summary.dropped >= 20
    assert summary.frames_in == 60
    assert summary.dropped == sum(result.dropped for result in sink.results)
    assert [result.dropped for result in sink.results[1:]] == [
        after - before - 1 for before, after in itertools.pairwise(indexes)
    ]
    assert summary.age_ms.p95 < 200
    assert summary.ended == "source_lost"


def test_frames_of_a_camera_that_come_sooner_than_asked_for_are_dropped(list_source, marks):
    """For a place where a frame a second tells enough; the rest is counted as what a slow engine loses is."""
    source = list_source([slowly(marks[0](index), 0.005) for index in range(100)], is_live=True)
    sink = ListSink()
    summary = run_echo(source, sink, every_s=0.1)
    captured_s = [result.frame.captured_ns / 1e9 for result in sink.results]
    assert len(captured_s) >= 4
    assert all(0.1 <= after - before < 0.5 for before, after in itertools.pairwise(captured_s))
    assert [result.dropped for result in sink.results[1:]] == [
        after.frame.index - before.frame.index - 1 for before, after in itertools.pairwise(sink.results)
    ]
    assert (summary.frames_in, summary.frames_out) == (100, len(sink.results))


def test_frames_that_are_left_out_count_as_given_before_the_next_result(list_source, marks):
    seen = []
    source = list_source([slowly(marks[0](0), 0.005) for _ in range(100)], is_live=True)
    run_echo(source, NullSink(), every_s=3600.0, on_status=seen.append, status_every_s=0.1)
    assert {status.frames_out for status in seen} == {1}
    assert seen[-1].frames_in >= 20
    assert seen[-1].fps_in > 20


def test_a_slow_engine_gets_the_newest_frame_that_is_due(list_source, marks):
    source = list_source([slowly(marks[0](0), 0.005) for _ in range(100)], is_live=True)
    sink = ListSink()
    summary = run(source, EchoEngine(delay_s=0.1), sink, every_s=0.05)
    assert len(sink.results) >= 4
    assert summary.age_ms.p50 < 100 + 40


def test_of_what_loses_no_frame_none_is_left_out(list_source, marks):
    sink = ListSink()
    with pytest.raises(UsageError, match="list loses no frame"):
        run_echo(list_source([marks[0](0)]), sink, every_s=1.0)
    assert (sink.results, sink.kept) == ([], None)
    for every_s in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="makes no sense"):
            run_echo(list_source([marks[0](0)], is_live=True), sink, every_s=every_s)


def test_slow_engine_loses_no_frame_of_a_file(list_source, marks):
    summary = run(list_source([marks[0](0)] * 10), EchoEngine(delay_s=0.01), NullSink())
    assert (summary.frames_out, summary.dropped) == (10, 0)


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("stage", ["source", "engine", "sink", "status"])
def test_stage_that_raises_ends_the_stream_at_once(list_source, marks, stage, is_live):
    error = {"source": SourceError("lost"), "engine": EngineError("dead"), "status": RuntimeError("oops")}.get(stage)
    items = [marks[0](0)] * 5 + ([error] if stage == "source" else [slowly(marks[0](0), 0.01)] * 1000)
    sink = ListSink(fails_at=3 if stage == "sink" else -1)
    engine: Engine = BrokenEngine(error) if stage == "engine" else EchoEngine()

    def on_status(status):
        if stage == "status":
            raise error

    started = time.monotonic()
    with pytest.raises(OSError if stage == "sink" else type(error)) as caught:
        run(list_source(items, is_live=is_live), engine, sink, on_status=on_status, status_every_s=0)
    assert time.monotonic() - started < 2
    assert error is None or caught.value is error
    assert sink.kept is is_live, "what can be made again is discarded, what cannot is kept"
    assert not [thread for thread in threading.enumerate() if thread.name == "fcn-edge-reader"]


def test_frames_before_a_broken_one_come_through(list_source, marks):
    sink = ListSink()
    with pytest.raises(SourceError):
        run_echo(list_source([marks[0](0)] * 4 + [SourceError("broken")]), sink)
    assert len(sink.results) == 4


def test_failing_sink_close_does_not_hide_the_reason(list_source, marks):
    class Stubborn(ListSink):
        def close(self, keep=True):
            raise OSError("cannot close")

    with pytest.raises(EngineError):
        run(list_source([marks[0](0)]), BrokenEngine(EngineError("dead")), Stubborn())
    with pytest.raises(OSError, match="cannot close"):
        run_echo(list_source([marks[0](0)]), Stubborn())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.zeros((4, 4), np.uint8), "4, 4"),
        (np.zeros((48, 64), np.int64), "int64"),
        (np.full((48, 64), 4, np.uint8), "class 4"),
    ],
)
def test_engine_that_answers_nonsense(list_source, marks, answer, said):
    with pytest.raises(EngineError, match=said):
        run(list_source([marks[0](0)]), BrokenEngine(answer), NullSink())


def test_status_tells_counts_and_rates(list_source, marks):
    seen = []
    run(
        list_source([marks[0](0)] * 20),
        EchoEngine(delay_s=0.01),
        NullSink(),
        on_status=seen.append,
        status_every_s=0.05,
    )
    assert 2 <= len(seen) <= 6
    assert [status.frames_out for status in seen] == sorted({status.frames_out for status in seen})
    assert all(0 < status.fps <= 110 and status.latency_p95_ms >= 9 for status in seen)
    assert seen[-1].frame_count == 20
    assert f"frame {seen[-1].frames_out}/20" in str(seen[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_with_a_summary_and_a_playable_file(list_source, marks, tmp_path, read_video, number):
    before = signal.getsignal(number)
    path = tmp_path / "o.mp4"
    items = [slowly(marks[0](index), 0.005) for index in range(2000)]
    items[20] = lambda: (os.kill(os.getpid(), number), marks[0](0))[1]
    with open_sink(path, contract=ECHO_CONTRACT) as sink:
        summary = run_echo(list_source(items), sink)
    assert summary.ended == "signal"
    assert 1 <= summary.frames_out < 100
    assert len(read_video(path)) == summary.frames_out
    assert signal.getsignal(number) is before


def test_signal_is_heard_while_a_camera_gives_nothing(list_source, marks):
    release = threading.Event()

    def stuck():
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(10)
        return marks[0](0)

    started = time.monotonic()
    summary = run_echo(list_source([marks[0](0), stuck], is_live=True), NullSink())
    release.set()
    assert summary.ended == "signal"
    assert time.monotonic() - started < 4


def test_a_signal_s_earlier_handler_is_called_once_the_recording_is_whole(list_source, marks, monkeypatch):
    """A service that notes SIGTERM and looks at it between two streams must hear of it."""
    sink, heard = ListSink(), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append((number, sink.kept)))
    try:
        frames = [marks[0](0), lambda: os.kill(os.getpid(), signal.SIGTERM) or marks[0](1)] + [marks[0](2)] * 1000
        assert run_echo(list_source(frames), sink).ended == "signal"
        assert heard == [(signal.SIGTERM, True)]
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stream_in_a_thread_is_stopped_by_an_event(list_source, marks):
    release, stop, ended = threading.Event(), threading.Event(), []
    source = list_source([marks[0](0), lambda: release.wait(30) and None], is_live=True)
    sink = ListSink()
    thread = threading.Thread(target=lambda: ended.append(run_echo(source, sink, stop=stop).ended))
    thread.start()
    stop.set()
    thread.join(20)
    release.set()
    assert not thread.is_alive()
    assert (ended, sink.kept) == (["signal"], True)
    assert run_echo(list_source([marks[0](0)]), NullSink(), stop=stop).frames_out == 0, "it was set before"


def test_window_that_is_closed_ends_the_stream(list_source, marks):
    sink = NullSink()
    sink.wants_stop = True
    assert run_echo(list_source([marks[0](0)] * 50), sink).ended == "signal"


def test_two_streams_at_once_one_dying(list_source, marks):
    sink, errors = ListSink(), []

    def die():
        try:
            run_echo(list_source([marks[0](0), SourceError("lost")]), NullSink())
        except SourceError as exc:
            errors.append(exc)

    thread = threading.Thread(target=die)
    thread.start()
    summary = run_echo(list_source([slowly(marks[0](0), 0.002)] * 50), sink)
    thread.join()
    assert len(errors) == 1
    assert summary.frames_out == 50


def test_memory_stays_flat(list_source, marks):
    class Endless(list_source):
        def read(self):
            return self._frame(marks[0](self._next_index, (120, 160)))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    run_echo(Endless([]), NullSink(), max_frames=500)
    before = resident()
    run_echo(Endless([]), NullSink(), max_frames=5000)
    # 5000 kept frames would be 288 MB, 5000 kept masks 96 MB.
    assert resident() - before < 20e6


def test_ctrl_c_in_a_real_process_leaves_a_playable_file(tmp_path, make_video, read_video):
    path = make_video(tmp_path / "in.mp4", 400)
    code = (
        "import sys; from fcn_edge.runtime import *\n"
        "with open_source('in.mp4') as source, open_engine('echo://?delay_ms=20') as engine:\n"
        "    with open_sink('out.mp4', contract=engine.contract, fps=source.fps) as sink:\n"
        "        show = lambda status: print('running', flush=True)\n"
        "        print(run(source, engine, sink, on_status=show, status_every_s=0.1).ended)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "signal"
    assert path.exists()
    assert 1 <= len(read_video(tmp_path / "out.mp4")) < 400


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_terminal_that_goes_away_ends_the_stream_with_a_playable_file(tmp_path, read_video, is_ignored):
    """An SSH connection that breaks: SIGHUP, and nothing can be printed any more. Under nohup the stream goes on."""
    master, slave = pty.openpty()

    def lead_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if is_ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    limit = 150 if is_ignored else 3000
    command = [sys.executable, "-m", "fcn_edge", "stream", "echo://?delay_ms=20", "synthetic://street", "out.mp4"]
    process = subprocess.Popen(
        [*command, "--max-frames", str(limit)], cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, preexec_fn=lead_the_terminal,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while b"frame " not in shown:
        shown += os.read(master, 1000)
    os.close(master)
    process.wait(timeout=60)
    frames = len(read_video(tmp_path / "out.mp4"))
    assert frames == limit if is_ignored else 1 <= frames < limit
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_camvid_frames_to_a_video(camvid, tmp_path, read_video):
    out = tmp_path / "out.mp4"
    summary = echo_to_file(f"{camvid}/val/*.png", out)
    assert summary.frames_out == 101
    assert len(read_video(out)) == 101


def test_sinks_hear_at_the_start_and_as_time_passes(list_source, marks):
    """A page tells of its stream before the first frame, and a window hears its key while there is none."""

    class Listening(NullSink):
        def __init__(self):
            self.heard = []

        def tell(self, status):
            self.heard.append(status.frames_out)

    sink = Listening()
    run_echo(list_source([slowly(marks[0](0), 0.01)] * 20), sink, status_every_s=0.05)
    assert sink.heard[0] == 0
    assert len(sink.heard) >= 3
    assert sink.heard == sorted(sink.heard)


def test_a_second_signal_interrupts_an_engine_that_hangs(list_source, marks):
    class Hanging(EchoEngine):
        def infer(self, frame_bgr):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            raise AssertionError("it was not interrupted")

    sink = ListSink()
    with pytest.raises(KeyboardInterrupt):
        run(list_source([marks[0](0)] * 3), Hanging(), sink)
    assert sink.kept is True


def test_no_picture_is_drawn_for_a_sink_that_needs_none(list_source, marks):
    class Undrawable:
        def draw(self, frame_bgr, labels):
            raise AssertionError("drawn for nobody")

    assert run_echo(list_source([marks[0](0)] * 3), NullSink(), overlay=Undrawable()).frames_out == 3


def test_one_frame_is_a_limit(list_source, marks):
    assert run_echo(list_source([marks[0](0)] * 3), NullSink(), max_frames=1).frames_out == 1


def test_a_frame_is_taken_as_soon_as_it_is_there(list_source, marks):
    """A live frame that waits for the next look at the queue is up to 0.1 s older."""
    release = threading.Event()
    source = list_source([slowly(marks[0](0), 0.2), lambda: release.wait(30) and None], is_live=True)
    with Reader(source) as reader:
        started = time.monotonic()
        frame, _ = reader.take(20.0)
        assert time.monotonic() - started < 10
        release.set()
    assert frame is not None


def test_an_error_that_comes_just_after_a_wait_is_raised_and_not_taken_for_the_end(list_source, marks):
    """The source fails between a take that found nothing and the question whether it has ended."""
    fails = threading.Event()

    def fail():
        fails.wait(5)
        return SourceError("lost")

    with Reader(list_source([fail])) as reader:
        assert reader.take(0.01) == (None, 0)
        fails.set()
        reader._thread.join(5)
        assert not reader.has_ended
        with pytest.raises(SourceError, match="lost"):
            reader.take(1)


def test_an_error_of_the_source_brings_what_became_of_the_frames_before(list_source, marks):
    source = list_source([marks[0](0), marks[0](1), SourceError("lost")])
    with pytest.raises(SourceError) as caught:
        run_echo(source, NullSink())
    assert (caught.value.summary.frames_out, caught.value.summary.ended) == (2, "source_lost")
    with pytest.raises(SourceError) as caught:
        run_echo(list_source([SourceError("lost")]), NullSink())
    assert caught.value.summary is None


def test_an_impatient_second_signal_does_not_cost_the_recording(list_source, marks):
    """Finishing hours of video takes seconds, in which people press Ctrl-C again."""

    class Slow(ListSink):
        def close(self, keep=True):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            super().close(keep)

    sink = Slow()
    frames = [marks[0](0), lambda: os.kill(os.getpid(), signal.SIGINT) or marks[0](1)] + [marks[0](2)] * 1000
    assert run_echo(list_source(frames), sink).ended == "signal"
    assert sink.kept


def test_an_impatient_second_signal_does_not_cost_a_part_either(list_source, marks, tmp_path):
    """A part is finished while the stream goes on."""

    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    sink = open_sink(tmp_path / "o.avi", contract=ECHO_CONTRACT, fps=10.0, split_s=1.0)
    finish = sink._finish_part
    sink._finish_part = lambda keep=True: twice() or finish(keep)
    summary = run_echo(list_source([marks[0](index % 20) for index in range(1000)]), sink)
    assert (summary.ended, summary.frames_out) == ("signal", 11)
    assert len(list(tmp_path.glob("o-*.avi"))) == 2


def test_a_signal_that_comes_while_the_sink_is_finished_reaches_who_waits_for_it(list_source, marks):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    class Slow(ListSink):
        def close(self, keep=True):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            super().close(keep)

    try:
        assert run_echo(list_source([marks[0](0)]), Slow()).ended == "eof"
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
