"""The builder's progress as one number: it grows with nested phases, never goes back and ends at its scale."""

from __future__ import annotations

import threading

from fcn_edge.export.build_progress import SCALE, Phases


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
