"""The legend of an overlay: which colour is which class, at any picture size; knows nothing about frames and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contract import Contract
from ..pixels import Image, require_cv2

_MAX_SHARE = 0.25  # of the picture's height
_MIN_TEXT_PX, _MAX_TEXT_PX = 7, 28  # height of a capital letter
_BACKDROP = 0.25  # brightness that is left of the picture under the legend


@dataclass(frozen=True)
class _Entry:
    x: int
    row: int
    class_id: int  # -1: the note that some are left out
    text: str


@dataclass(frozen=True, eq=False)
class _Layout:
    """The legend at one picture size: uint8 ``[rows, width, 3]`` and where it is not black; None: no room for any."""

    size_hw: tuple[int, int]
    panel: Image | None = None
    inked: Image | None = None


class Legend:
    """Swatches and class names in rows along the lower edge; laid out once for each picture size.

    Where not all classes fit into a quarter of the height the text shrinks, then the last classes are left out and
    counted (``+7``); a picture too small for any text gets none. Threads may share one.
    """

    def __init__(self, contract: Contract) -> None:
        self._names = contract.class_names
        self._palette_bgr = [(blue, green, red) for red, green, blue in contract.palette]
        self._layout = _Layout((0, 0))

    def draw_on(self, picture_bgr: Image) -> None:
        """Draw into uint8 ``[height, width, 3]``, in place."""
        height, width = picture_bgr.shape[:2]
        layout = self._layout  # read once: another thread may replace it by one of another size
        if (height, width) != layout.size_hw:
            layout = self._layout = self._lay_out(height, width)
        if layout.panel is None or layout.inked is None:
            return
        cv2 = require_cv2()
        region = picture_bgr[height - layout.panel.shape[0] :]
        cv2.convertScaleAbs(region, region, _BACKDROP, 0)
        cv2.copyTo(layout.panel, layout.inked, region)

    def _lay_out(self, height: int, width: int) -> _Layout:
        """Choose the largest text with which all classes fit, else as many as fit with the smallest."""
        largest = min(max(height // 45, _MIN_TEXT_PX), _MAX_TEXT_PX)
        for text_px in range(largest, _MIN_TEXT_PX - 1, -1):
            entries = self._place(text_px, width, int(height * _MAX_SHARE))
            if len(entries) == len(self._names) and all(entry.class_id >= 0 for entry in entries):
                break
        if not entries:
            return _Layout((height, width))
        panel = self._paint(entries, text_px, width)
        return _Layout((height, width), panel, (panel.max(2) > 0).astype(np.uint8))

    def _place(self, text_px: int, width: int, max_height: int) -> list[_Entry]:
        """Where each entry stands, row by row; those that do not fit are left out and counted in the last one."""
        rows = (max_height - text_px) // _row_px(text_px)
        entries: list[_Entry] = []
        x, row = text_px, 0
        for class_id, name in enumerate(self._names):
            advance = _advance_px(name, text_px)
            if x + advance > width and x > text_px:
                x, row = text_px, row + 1
            if row >= rows or x + advance > width:
                return self._shorten(entries, text_px, width)
            entries.append(_Entry(x, row, class_id, name))
            x += advance
        return entries

    def _shorten(self, entries: list[_Entry], text_px: int, width: int) -> list[_Entry]:
        """Put ``+N`` behind the last entry after which there is room for it."""
        while entries:
            last = entries[-1]
            x = last.x + _advance_px(last.text, text_px)
            note = f"+{len(self._names) - len(entries)}"
            if x + _advance_px(note, text_px) <= width:
                return [*entries, _Entry(x, last.row, -1, note)]
            entries = entries[:-1]
        return []

    def _paint(self, entries: list[_Entry], text_px: int, width: int) -> Image:
        cv2 = require_cv2()
        rows = entries[-1].row + 1
        panel: Image = np.zeros((rows * _row_px(text_px) + text_px, width, 3), np.uint8)
        for entry in entries:
            top = text_px * 3 // 4 + entry.row * _row_px(text_px)
            x = entry.x
            if entry.class_id >= 0:
                right, bottom = x + text_px * 3 // 2, top + text_px + text_px // 4
                cv2.rectangle(panel, (x, top), (right, bottom), self._palette_bgr[entry.class_id], cv2.FILLED)
                cv2.rectangle(panel, (x, top), (right, bottom), (235, 235, 235), 1)
                x = right + text_px // 2
            _put_text(panel, entry.text, (x, top + text_px), text_px)
        return panel


def _row_px(text_px: int) -> int:
    return text_px * 2


def _scale(text_px: int) -> tuple[float, int]:
    """Scale and thickness with which a capital letter of OpenCV's plain font is ``text_px`` high."""
    thickness = max(1, text_px // 10)
    scale: float = require_cv2().getFontScaleFromHeight(require_cv2().FONT_HERSHEY_SIMPLEX, text_px, thickness)
    return scale, thickness


def _advance_px(text: str, text_px: int) -> int:
    """Width of an entry with its swatch and the gap behind it."""
    cv2 = require_cv2()
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, *_scale(text_px))
    return int(text_width) + text_px * 2 + text_px * 3 // 2


def _put_text(panel: Image, text: str, origin: tuple[int, int], text_px: int) -> None:
    cv2 = require_cv2()
    scale, thickness = _scale(text_px)
    cv2.putText(panel, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (245, 245, 245), thickness, cv2.LINE_AA)
