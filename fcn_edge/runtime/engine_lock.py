"""Whose turn it is on an engine that takes one frame at a time, in its own process; knows nothing about any backend."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import NoReturn

from ..errors import EngineError

_ELSEWHERE = (
    "an engine works in the process that opened it and in no other; open one in each, and start processes with "
    "multiprocessing.get_context('spawn')"
)


class EngineLock:
    """A lock as a context manager that no process but the one that made it can take, nor be sent.

    A forked child has its parent's memory but not its threads: a lock that one of them held there is held for ever, and
    so is whatever the backend's own threads were to do.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def is_own(self) -> bool:
        """Whether this is the process that made it."""
        return os.getpid() == self._process

    def require_own(self) -> None:
        """Refuse another process, such as a forked child.

        Raises:
            EngineError: if this is one.
        """
        if not self.is_own:
            raise EngineError(_ELSEWHERE)

    def __enter__(self) -> None:
        self.require_own()
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()

    def __reduce__(self) -> NoReturn:
        raise EngineError(_ELSEWHERE)
