"""The procedural street as a source, for demos, tests and benchmarks; knows nothing about how it is drawn."""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qsl

from ..errors import SourceError, UsageError
from ..size_text import size_from_text
from .frame import Frame
from .source import Source

_OPTIONS = "seed=0&size=360x480&fps=30&frames=300&live=1"


class StreetSource(Source):
    """A drive along the procedural street; the same seed gives the same frames.

    Args:
        size_hw: (height, width) of the frames.
        seed: which street.
        fps: how much time passes from one frame to the next.
        frames: how many there are; None: endless.
        live: give a frame no earlier than a camera of that rate would.
    """

    def __init__(
        self, size_hw: tuple[int, int], seed: int = 0, fps: float = 30.0, frames: int | None = None, live: bool = False
    ) -> None:
        super().__init__("synthetic://street", fps, size_hw, frames, live)
        self._seed = seed
        self._scene_hw = size_hw  # frames may be turned afterwards
        self._started_s: float | None = None

    def read(self) -> Frame | None:
        """The next frame, or None after the last."""
        from ..street import LONGEST_S, draw_street

        index = self._next_index
        if index == self.frame_count:
            return None
        image, _ = draw_street(self._seed, index / self.fps % LONGEST_S, self._scene_hw)  # then it begins again
        if self.is_live:
            self._started_s = self._started_s if self._started_s is not None else time.monotonic()
            time.sleep(max(0.0, self._started_s + index / self.fps - time.monotonic()))
        return self._frame(image)


def open_synthetic(rest: str, fps: float | None = None) -> StreetSource:
    """The source that ``synthetic://<rest>`` names.

    Raises:
        SourceError: if the scene or an option is unknown, or a value cannot be used.
    """
    scene, _, query = rest.partition("?")
    if scene != "street":
        raise SourceError(f"synthetic scene '{scene}' is unknown; expected synthetic://street[?{_OPTIONS}]")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - {"seed", "size", "fps", "frames", "live"})
    if unknown:
        raise SourceError(f"synthetic://street has no option '{unknown[0]}'; expected ?{_OPTIONS}")
    return StreetSource(
        _size(options.get("size", "360x480")),
        int(_number(options, "seed", 0, 0, 2**31 - 1)),
        fps or _number(options, "fps", 30, 0.001, 1000),
        int(_number(options, "frames", 0, 1, 2**31)) if "frames" in options else None,
        _number(options, "live", 0, 0, 1) == 1,
    )


def _number(options: dict[str, str], name: str, default: float, low: float, high: float) -> float:
    text = options.get(name, str(default))
    is_number = re.fullmatch(r"\d+(\.\d+)?" if name == "fps" else r"\d+", text)
    if not is_number or not low <= float(text) <= high:
        raise SourceError(f"synthetic://street has {name}={text}; expected a number from {low:g} to {high:g}")
    return float(text)


def _size(text: str) -> tuple[int, int]:
    from ..street import SIDES

    try:
        return size_from_text(text, f"synthetic://street has size={text}", SIDES)
    except UsageError as exc:
        raise SourceError(str(exc)) from exc
