"""The builder's progress as one number: it grows with nested phases, never goes back and ends at its scale."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from fcn_edge.export.build_progress import SCALE, Phases, open_monitor


def test_nested_phases_add_up() -> None:
    phases = Phases()
    assert phases.start("engine", None, 4) == 0
    assert phases.start("graph", "engine", 2) == 0
    assert phases.step("graph", 0) == SCALE // 8
    assert phases.start("inner", "graph", 10) == SCALE // 8
    assert phases.step("inner", 4) == SCALE // 8 + SCALE // 16
    assert phases.finish("inner") == SCALE // 8 + SCALE // 16  # it never goes back
    phases.finish("graph")
    assert phases.step("engine", 1) == SCALE // 2
    assert phases.finish("engine") == SCALE


def test_what_tensorrt_may_say_out_of_order_does_no_harm() -> None:
    phases = Phases()
    assert phases.step("unknown", 3) == 0
    assert phases.finish("unknown") == 0
    assert phases.start("empty", None, 0) == 0
    assert phases.step("empty", 7) == SCALE
    assert phases.finish("empty") == SCALE


def test_what_the_caller_raises_stops_the_builder_and_is_kept() -> None:
    """It may not be raised through TensorRT's own frames."""
    calls = []

    def full(done: int, total: int) -> None:
        calls.append((done, total))
        if done:
            raise OSError("no space left on device")

    monitor = open_monitor(SimpleNamespace(IProgressMonitor=object), full)
    monitor.phase_start("engine", None, 4)
    assert (monitor.cancelled, monitor.failure) == (False, None)
    assert monitor.step_complete("engine", 0) is False
    assert monitor.step_complete("engine", 1) is False
    assert calls == [(0, SCALE), (SCALE // 4, SCALE)], "nobody is asked who has failed"
    assert isinstance(monitor.failure, OSError)


def test_many_threads() -> None:
    phases = Phases()
    phases.start("engine", None, 8)

    def work(index: int) -> None:
        name = f"part {index}"
        phases.start(name, "engine", 200)
        for step in range(200):
            assert 0 <= phases.step(name, step) <= SCALE
        phases.finish(name)
        phases.step("engine", index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert phases.finish("engine") == SCALE
