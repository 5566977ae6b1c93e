"""The process that we are guests in: its stderr, and what its signal handlers raise.

Loaded inside other people's imports, so it imports nothing that could be under way there.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own would cost every start under `run` 8 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, ModuleType, TracebackType
    from typing import Any

#: What is imported amid a call → the process and the thread that do it by now.
_importing: dict[str, tuple[int, int]] = {}


def import_late(name: str, instead: str = "") -> Any:
    """Import a module amid a call, but not where that would never end, or finds half of it.

    A child that was forked amid it waits for a thread that it does not have. ``ImportError`` says
    to import ``instead``, or the module, earlier.
    """
    from importlib import import_module
    from threading import get_ident  # gevent's, where it has patched

    held = sys.modules.get(name)
    if held is not None and not is_unfinished(held):
        return held
    by, here = _importing.get(name), (os.getpid(), get_ident())
    if by is not None and (by[0] != here[0] or by == here):
        raise ImportError(
            "a fork, or this signal handler, came while another call imported it: import "
            f"{instead or name} when the program starts"
        )
    _importing[name] = here
    try:
        return import_module(name)
    finally:
        _importing.pop(name, None)


def is_unfinished(module: ModuleType | None) -> bool:
    """Whether a module is in the middle of its import."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def write_stderr(text: str) -> None:
    """One line on stderr; a process without one goes on all the same."""
    try:
        line = f"revenuebase-compat: {' '.join(text.split())}\n"
        if (stderr := sys.__stderr__) is not None and sys.stderr is stderr:
            # Not by its buffer, whose lock a fork would leave held in the child, on which the end
            # of the process would wait, and in which a line that cannot be written stays.
            os.write(stderr.fileno(), line.encode(stderr.encoding, "backslashreplace"))
        else:
            sys.stderr.write(line)
    except Exception as error:
        if from_handler(error):
            raise


def from_handler(error: BaseException) -> bool:
    """Whether a signal handler raised it, such as a time limit: not ours to swallow."""
    return raised_by_handler(error) is not None


def raised_by_handler(error: BaseException) -> BaseException | None:
    """Of an exception and what led to it, the last that a signal handler raised."""
    handlers = [*_signal_handlers()]
    chain = [one for one in causes(error) if _is_of_handler(one, handlers)]
    # Libraries give what they make of it the traceback of what it was.
    same = [one for one in chain if _end(one) is _end(chain[0])]
    return same[-1] if same else None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what led to it, those of a group included."""
    found: list[Any] = [error]
    for one in found:
        yield one
        led = [one.__cause__ or one.__context__, *getattr(one, "exceptions", ())]
        found += [cause for cause in led if cause is not None and cause not in found]


def frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """From where it was caught to where it was raised."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _end(error: BaseException) -> TracebackType | None:
    *_, last = None, *frames(error.__traceback__)
    return last


def _is_of_handler(error: BaseException, handlers: list[Any]) -> bool:
    before, running = None, set(_stack())
    for traceback in frames(error.__traceback__):
        frame = traceback.tb_frame
        # Of a frame that goes on, a look at the variables would keep them, before Python 3.13.
        if frame not in running and not frame.f_code.co_flags & _SUSPENDS:
            # One that is in force no more was given a number, and the frame that it interrupted.
            given = before is not None and _was_given(frame, before)
            if given or any(_runs(frame, *handler) for handler in handlers):
                return True
        before = frame
    return False


def _runs(frame: FrameType, function: Any, instance: Any) -> bool:
    """Whether a frame is that function's, and not plainly another's of its decorator or class."""
    code = frame.f_code
    if function.__code__ is not code:
        return False
    held = frame.f_locals
    first = held.get(code.co_varnames[0]) if code.co_varnames else None
    if type(first) is type(instance) and first is not instance:
        return False
    try:
        cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
        return all(held.get(name) is cell.cell_contents for name, cell in cells)
    except ValueError:  # an empty one
        return True


#: Of generators, coroutines and asynchronous generators.
_SUSPENDS = 0x20 | 0x80 | 0x200


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)  # one that holds itself would be garbage
    while frame is not None:
        yield frame
        frame = frame.f_back


def _was_given(frame: FrameType, interrupted: FrameType) -> bool:
    code, held = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4)  # *args
    number = None
    for name in code.co_varnames[:count]:
        given = held.get(name)
        for value in given if isinstance(given, tuple) else (given,):
            if value is interrupted and isinstance(number, int):
                return True
            number = value
    return False


def _signal_handlers() -> Iterator[tuple[Any, Any]]:
    """The function of each, and what it is bound to."""
    signal: Any = sys.modules.get("signal")  # loaded by whoever has set a handler
    for number in signal.valid_signals() if signal else ():
        handler: Any = signal.getsignal(number)
        if callable(handler):
            if hasattr(type(handler), "func"):  # functools.partial
                handler = handler.func
            if not hasattr(handler, "__code__"):
                handler = handler.__call__
            call = getattr(handler, "__func__", handler)
            if hasattr(call, "__code__"):
                yield call, getattr(handler, "__self__", None)
