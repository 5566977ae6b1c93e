"""What a call is given of the outside, and the two loops that do what its flow asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from revenuebase_compat.core import cancellation
from revenuebase_compat.core.calls import CallContext, Notice, now_of, route
from revenuebase_compat.core.models import Job, JobId, check_process_id, check_wait
from revenuebase_compat.core.routing import Decision
from revenuebase_compat.core.settings import Settings

from . import flags, notices
from .memory import memory

if TYPE_CHECKING:
    from revenuebase_compat.core.events import CancelEvent

T = TypeVar("T")
Site = notices.CallSite | None


def utc_now() -> datetime:
    """The time (aware), by the process's clock where a test has set one."""
    return datetime.now(timezone.utc) if memory.clock is None else memory.clock()


def jitter() -> float:
    """A random number in [0, 1)."""
    import random  # few calls wait, and httpx brings it along

    return random.random()  # noqa: S311 (no secret depends on it)


def call_context(
    settings: Settings,
    notify: Callable[[Notice], None] = notices.tell,
    clock: Callable[[], datetime] = utc_now,
    monotonic: Callable[[], float] = time.monotonic,
    random: Callable[[], float] = jitter,
) -> CallContext:
    """For one call, with the memory of this process."""
    given = settings, clock, monotonic, random, memory.retired_at, notify
    return CallContext(*given, partial(emit, settings))


def emit(settings: Settings, event: CancelEvent) -> None:
    """Tell ``on_event`` of a finished call; what it raises is logged."""
    try:
        heard = flags.resolve("on_event", settings.on_event)
        if heard is not None:
            heard(event)
    except Exception as error:
        flags.log_failure("on_event failed", error, "the call was not touched")


class Runtime(NamedTuple):
    """Settings, clocks and sender of one client, whose arguments are explained there."""

    settings: Settings
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    #: This and the rest are awaited for an asynchronous client.
    sleep: Callable[[float], Any]
    #: Called with the fields of a ``SendRequest``; gives what came of it.
    send: Any
    ask: Callable[..., Any] = flags.ask

    def context(self, site: Site = None) -> CallContext:
        """For one call; ``site`` is the user's line, where it is off the stack by then."""
        notify = notices.tell if site is None else partial(notices.tell, site=site)
        return call_context(self.settings, notify, self.clock, self.monotonic, self.random)

    def cancel(
        self, process_id: JobId, wait: float | None, site: Site = None, **options: Any
    ) -> cancellation.Flow:
        """The flow of one cancel, which checks what it is given when it begins."""
        self.send.check_open()
        given = check_process_id(process_id), check_wait(wait)
        return (yield from cancellation.cancel(self.context(site), *given, **options))

    def get_job(self, process_id: JobId, site: Site = None) -> cancellation.Steps[Job]:
        """The flow of one reading, likewise."""
        self.send.check_open()
        return (yield from cancellation.get_job(self.context(site), check_process_id(process_id)))

    def route(self, process_id: JobId) -> Decision:
        """The flow of a decision, which sends nothing."""
        context = self.context()
        return route(context, check_process_id(process_id), now_of(context))

    def drive(self, steps: Generator[Any, Any, T]) -> T:
        """Run a flow to its end."""
        answer: Any = None
        try:
            while True:
                try:
                    command = steps.send(answer)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                answer = self._carry_out(command)
        except Exception as error:
            steps.throw(error)  # the flag's or the pause's, which the event shall name
            raise
        finally:
            steps.close()

    async def drive_async(self, steps: Generator[Any, Any, T]) -> T:
        """Run a flow to its end under ``asyncio``."""
        answer: Any = None
        try:
            while True:
                try:
                    command = steps.send(answer)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                answer = await self._carry_out(command)
        except Exception as error:
            steps.throw(error)
            raise
        finally:
            steps.close()

    def _carry_out(self, command: Any) -> Any:
        if type(command) is cancellation.SendRequest:
            return self.send(*command)
        if type(command) is cancellation.Sleep:
            return self.sleep(command.seconds)
        return self.ask(self.settings.v2_flag, command.context)
