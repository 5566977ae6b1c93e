"""aiohttp."""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import chain
from typing import Any

from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.rewrite import Headers, to_v1_body, to_v2_target
from revenuebase_compat.core.endpoints import Endpoint, Request

from . import base


class _Like:
    """In place of a thing, of which it is all but what is given; nothing ends with it."""

    __class__ = property(lambda self: type(self._thing))  # which other tools' wrappers look at

    def __init__(self, thing: Any, **given: Any) -> None:
        vars(self).update(given, _thing=thing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._thing, name)


class _Traced(_Like):
    """A trace configuration whose hooks are given the program's session."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not name.startswith(("on_", "_on_")):
            return found
        return _Like(found, send=lambda _, *given: found.send(self._session, *given))


class AiohttpCall(base.LibraryCall):
    """Given are the method and the URL."""

    asynchronous = True

    def encoding(self) -> Headers:
        return base.encoding_of(self._owner._prepare_headers(self._options.get("headers")))

    async def peek(self) -> bytes:
        options, session = self._options, self._owner
        if options.get("json") is not None:
            dumps = getattr(session, "_json_serialize_bytes", None) or session._json_serialize
            return base.as_bytes(dumps(options["json"]))
        data: Any = options.get("data")
        # Of a payload made by hand, which is sent as it is.
        held = getattr(data, "_value", data)
        if hasattr(data, "__aiter__") and held is data:
            seen, options["data"] = await base.read_ahead(data, asynchronous=True)
            return seen
        # A file that cannot be wound back is not read: aiohttp frames each kind in its own way.
        seekable = hasattr(held, "read") and hasattr(held, "seekable") and held.seekable()
        if not (base.is_text(held) or seekable):
            return b""
        seen, held_anew = await base.peek(held)
        if held is data:
            options["data"] = held_anew
        return seen

    def replayable(self) -> bool:
        return base.is_text(self._options.get("data"))

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        if moved is None:
            return await self._original(self._owner, *self._given, **self._options)
        options, session, given = self._options, self._owner, self._given[1]
        method, url = self._given[0].upper(), session._build_url(given)
        target = type(url)(to_v2_target(self._base_url, url.raw_path_qs, moved), encoded=True)
        sender, unsent = session, None
        if endpoint.names_job or moved.method != method:
            skip = {"Content-Type", *(options.get("skip_auto_headers") or ())}
            options = {**options, "skip_auto_headers": skip}
            # Hooks and middlewares are given the session itself: they may keep it.
            made, traces = session._request_class, session._trace_configs
            sender = _Like(
                session,
                _request_class=lambda *args, **named: made(*args, **{**named, "session": session}),
                _trace_configs=[_Traced(one, _session=session) for one in traces],
                # From 3.11 on; 3.10 repeats any GET whose connection has died, older ones none.
                _retry_connection=False,
            )
        if endpoint.names_job:
            unsent = options.get("data")
            dropped = ("data", "json", "compress", "chunked", "expect100")
            options = {name: value for name, value in options.items() if name not in dropped}
            prepare = session._prepare_headers
            sender._prepare_headers = lambda own: base.without_body_headers(prepare(own))
        # Older ones take no absolute URL beside a base URL.
        place = url.join(target) if type(url)(given).absolute else target
        response = await self._original(sender, moved.method, place, **options)
        if isinstance(unsent, io.IOBase) and not isinstance(unsent, io.BytesIO | io.StringIO):
            unsent.close()  # as aiohttp closes a file that it has sent
        first = [*response._history, response][0]  # the one that was moved, were it redirected
        url = url.with_user(None).with_query(first._url.query)
        info = first._request_info
        first.method, first._url, first._real_url = method, url, url
        first._request_info = type(info)(url, method, info.headers, url)
        first._cache.clear()  # of the properties over these
        return response

    async def close(self, response: Any) -> None:
        response.close()

    def redirect(self, response: Any, status: int, location: str) -> None:
        if not response._history:
            response.status = status
            headers = response._headers.copy()
            headers["Location"] = location
            response._headers = type(response._headers)(headers)
            response._cache.clear()

    async def translate(self, response: Any) -> Any:
        response._body = to_v1_body(422, [], await response.read())  # decompressed by the library
        return response


def _request(original: Any) -> Any:
    """The wrapper; argument names are those of the original, as other tools look for them."""

    async def _request(self: Any, method: str, str_or_url: Any, **kw: Any) -> Any:
        active, url, endpoint = interceptor.active, None, None
        text = str(str_or_url).lower()
        known = text.partition("?")[0].endswith(interceptor.V1_ENDINGS)
        if active and (self._base_url or active.host in text or known):
            with suppress(ValueError, TypeError):  # aiohttp says better that it is no URL
                url = self._build_url(str_or_url)
        if active and url is not None and url.host:
            where = url.scheme, url.host, url.port, url.raw_path_qs
            if hasattr(kw.get("headers"), "__next__"):
                kw["headers"] = [*kw["headers"]]  # as it can be read only once
            headers = chain(self._default_headers, kw.get("headers") or ())
            endpoint = active.endpoint(method.upper(), *where, headers)
        refused = kw.get("data") is not None and kw.get("json") is not None
        if active is None or endpoint is None or refused:
            return await original(self, method, str_or_url, **kw)
        # Raised from within, it would show the URL of v2, and end a rehearsal at the 410.
        check = kw.pop("raise_for_status", None)
        check = self._raise_for_status if check is None else check
        kw["raise_for_status"] = False
        call = AiohttpCall(active.settings.base_url, original, self, method, str_or_url, **kw)
        response = await interceptor.intercept(active, endpoint, call)
        if callable(check):
            await check(response)
        elif check:
            response.raise_for_status()
        return response

    return _request
