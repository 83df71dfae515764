"""Source, engine, overlay, sink and the loop that joins them; knows nothing about torch.

>>> from fcn_edge.runtime import open_engine, open_sink, open_source, run
>>> with open_source("drive.mp4") as source, open_engine("model.onnx") as engine:  # doctest: +SKIP
...     with open_sink("overlay.mp4", contract=engine.contract, fps=source.fps) as sink:
...         summary = run(source, engine, sink)
"""

from __future__ import annotations

from .engine import Engine, open_engine
from .frame import Frame, Result
from .measure import StreamStatus, StreamSummary
from .overlay import Overlay
from .reader import Reader
from .sink import Sink, open_sink
from .source import Source, open_source
from .stream import run

__all__ = [
    "Engine",
    "Frame",
    "Overlay",
    "Reader",
    "Result",
    "Sink",
    "Source",
    "StreamStatus",
    "StreamSummary",
    "open_engine",
    "open_sink",
    "open_source",
    "run",
]
