"""Long loops: compiled blocks driven from the host, so that Ctrl-C loses nothing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_AT_ONCE: ContextVar[bool] = ContextVar("at_once", default=False)


@contextmanager
def interrupts_at_once() -> Iterator[None]:
    """Let Ctrl-C end loops in the middle: for work that is kept as a whole or not at all."""
    token = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)


class Interrupt:
    """Flag whose truth value is whether the user has asked to stop."""

    def __init__(self):
        self._asked = False

    def __bool__(self):
        return self._asked

    def ask(self):
        """Record the request to stop."""
        self._asked = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Turn the first Ctrl-C into a flag that the loop reads between blocks.

    A second Ctrl-C raises KeyboardInterrupt at once.  Outside the main thread, where
    Python delivers no signals, the flag simply stays false.
    """
    interrupt = Interrupt()
    if _AT_ONCE.get() or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def first(signum, frame):
        interrupt.ask()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
