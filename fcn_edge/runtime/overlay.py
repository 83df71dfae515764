"""Draws labels over a frame for people to look at, with a legend; knows nothing about where pictures go."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import Contract
from ..errors import UsageError
from ..pixels import Image, Labels, fit_image, require_cv2, require_frame
from .legend import Legend

MODES = ("overlay", "mask", "both")


class Overlay:
    """Paints each class in its colour of the contract; ids that are no class stay black. Threads may share one.

    Args:
        contract: class names and palette.
        opacity: 0 shows the frame alone, 1 the colours alone.
        legend: whether to draw the class names.
        mode: ``overlay`` (colours over the frame), ``mask`` (colours alone), or ``both``, side by side.

    Raises:
        UsageError: if ``opacity`` or ``mode`` cannot be used.
    """

    def __init__(self, contract: Contract, opacity: float = 0.5, legend: bool = True, mode: str = "overlay") -> None:
        if not 0 <= opacity <= 1:
            raise UsageError(f"overlay opacity is {opacity}; expected 0 (frame alone) to 1 (colours alone)")
        if mode not in MODES:
            raise UsageError(f"overlay mode '{mode}' is unknown; expected one of {', '.join(MODES)}")
        self._opacity = opacity
        self._mode = mode
        self._legend = Legend(contract) if legend else None
        self._colors: NDArray[np.uint8] = np.zeros((256, 1, 3), np.uint8)
        self._colors[: contract.num_classes, 0] = np.asarray(contract.palette, np.uint8)[:, ::-1]  # RGB to BGR

    def draw(self, frame_bgr: NDArray[Any], labels: Labels) -> Image:
        """The picture of a frame.

        Args:
            frame_bgr: uint8 ``[height, width, 3]``; it is not changed. Grey-scale and BGRA are converted.
            labels: uint8 ``[height, width]``.

        Returns:
            uint8 ``[height, width, 3]`` BGR, or ``[height, 2 * width, 3]`` for ``both``, in memory of its own.

        Raises:
            UsageError: if the two differ in size or are of another type or shape.
        """
        require_frame(frame_bgr)
        height, width = frame_bgr.shape[:2]
        if not isinstance(labels, np.ndarray):
            raise UsageError(
                f"labels are of type {type(labels).__name__}; expected a NumPy array, uint8 [{height}, {width}]"
            )
        if labels.dtype != np.uint8 or labels.shape != (height, width):
            raise UsageError(
                f"labels are {labels.dtype} {list(labels.shape)}; expected uint8 [{height}, {width}], as the frame"
            )
        cv2 = require_cv2()
        picture: Image = cv2.applyColorMap(labels, self._colors)
        if self._mode != "mask":
            frame = fit_image(frame_bgr, (height, width))
            blend = cv2.addWeighted(picture, self._opacity, frame, 1 - self._opacity, 0)
            picture = cv2.hconcat([blend, picture]) if self._mode == "both" else blend
        if self._legend is not None:
            self._legend.draw_on(picture)
        return picture
