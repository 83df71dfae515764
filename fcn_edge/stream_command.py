"""What ``fcn-edge stream`` takes, and the stream it asks for; prints nothing and imports a stage when it opens it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .arguments import count, positive, seconds, share, size

if TYPE_CHECKING:
    from .runtime import StreamStatus, StreamSummary

STATUS_EVERY_S = 2.0  # at most from one time that a page is told to the next, however rarely something is said
_EARLY_S = 0.1


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stream``."""
    parser.add_argument("model", metavar="MODEL", help=".onnx, .pt, .engine, or the name of a shipped model")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="0, csi://0, rtsp://..., FILE.mp4, a folder, a glob, synthetic://street, env:NAME (a variable)",
    )
    parser.add_argument(
        "sinks",
        metavar="SINK",
        nargs="*",
        default=[],
        help="FILE.mp4, a folder, FILE.jsonl (shares of the classes), null:// (default), or several",
    )
    parser.add_argument("--show", action="store_true", help="also show a window; q ends")
    parser.add_argument(
        "--serve", metavar="HOST:PORT", help="also show the stream on a page; without HOST for this machine alone"
    )
    parser.add_argument("--opacity", type=share, default=0.5, help="of the overlay, 0 to 1 (%(default)s)")
    parser.add_argument("--mode", choices=("overlay", "mask", "both"), default="overlay", help="(%(default)s)")
    parser.add_argument("--no-legend", action="store_true", help="leave the legend out")
    parser.add_argument(
        "--split",
        type=seconds,
        metavar="TIME",
        help="begin a new video and .jsonl file after 10m, 1h, ..., named by its first frame's time (UTC)",
    )
    parser.add_argument(
        "--every",
        type=seconds,
        metavar="TIME",
        help="work on a camera's frame every 500ms, 1s, ... at most, not on all",
    )
    parser.add_argument("--max-frames", type=positive, metavar="N", help="end after N frames")
    parser.add_argument(
        "--fps", type=float, help="rate to play at (the video's own; 15 for images), to ask of a camera"
    )
    parser.add_argument(
        "--camera-size", type=size, metavar="HxW", help="to ask of a camera (720x1280 of csi://, else its own)"
    )
    parser.add_argument("--rotate", type=int, choices=(90, 180, 270), help="turn the frames clockwise, by degrees")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read, instead of ending"
    )
    parser.add_argument(
        "--max-reconnects", type=count, metavar="N", help="give a lost camera up after N tries in a row (never)"
    )
    parser.add_argument(
        "--status",
        type=seconds,
        default=STATUS_EVERY_S,
        metavar="TIME",
        help="say on stderr how it goes every 2s, 1m, ..., and when the connection changes (2s)",
    )
    parser.add_argument("--threads", type=positive, help="CPU threads (one for each physical core)")
    parser.add_argument("--force", action="store_true", help="replace SINK")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def stream_from_arguments(
    args: argparse.Namespace, say: Callable[[str], None], tell: Callable[[StreamSummary], None]
) -> StreamSummary:
    """Open what is asked for and stream until it ends.

    Args:
        args: the parsed arguments.
        say: takes a line on how the stream is doing.
        tell: takes the summary, before a camera that blocks is waited for: an impatient signal may come meanwhile.

    Returns:
        What became of the stream.

    Raises:
        FcnEdgeError: what the stages raise that cannot be opened or fail.
    """
    from .benchmarks.engines import open_any_engine
    from .runtime import Overlay, open_sink, open_source, run

    sinks = args.sinks or ["null://"]
    if args.show:
        sinks.append("show://")
    if args.serve:
        from .runtime.sink_page import page_url

        url = page_url(args.serve)  # refused before anything is opened
        sinks.append(f"serve://{args.serve}")
    with (
        open_any_engine(args.model, threads=args.threads) as engine,
        open_source(
            args.source,
            fps=args.fps,
            max_reconnects=args.max_reconnects,
            camera_size_hw=args.camera_size,
            rotate=args.rotate or 0,
            skip_unreadable=args.skip_unreadable,
        ) as source,
        open_sink(
            sinks,
            contract=engine.contract,
            fps=min(source.fps, 1 / args.every) if args.every else source.fps,
            force=args.force,
            split_s=args.split,
        ) as sink,
    ):
        if args.serve:
            say(f"fcn-edge: {url} shows the stream")
        overlay = Overlay(engine.contract, opacity=args.opacity, legend=not args.no_legend, mode=args.mode)
        summary = run(
            source,
            engine,
            sink,
            overlay=overlay,
            max_frames=args.max_frames,
            every_s=args.every,
            on_status=said_every(args.status, say),
            status_every_s=args.status / math.ceil(args.status / STATUS_EVERY_S),
        )
        tell(summary)
        if source.note:
            say(f"fcn-edge: {source.note}")
    return summary


def said_every(every_s: float, say: Callable[[str], None]) -> Callable[[StreamStatus], None]:
    """What ``run`` is given as ``on_status`` to say one status in ``every_s`` seconds.

    The first is said too, and each whose connection is not as it was when something was last said.
    """
    last: StreamStatus | None = None

    def hear(status: StreamStatus) -> None:
        nonlocal last
        if last is None or status.link != last.link or status.elapsed_s - last.elapsed_s > every_s - _EARLY_S:
            last = status
            say(str(status))

    return hear
