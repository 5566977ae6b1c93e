"""What httpx is handed: a request of its own in all that anybody may ask of it."""

from __future__ import annotations

import asyncio
import copy
import pickle

import httpx
import pytest

from revenuebase_compat import Settings
from revenuebase_compat.client.factory import Factory
from revenuebase_compat.core.endpoints import Request
from tests.conftest import TEST_KEY

BASES = (
    "https://api.revenuebase.ai",
    "https://API.revenuebase.ai:443/",
    "https://api.revenuebase.ai:8443/some/pre~fix/",
    "https://api.revenuebase.ai/a.b-c",
    "http://127.0.0.1:8089",
    "http://localhost",
    "http://[::1]:8089/v",
)
ASKED = (
    *("scheme", "raw_scheme", "userinfo", "username", "password", "host", "raw_host", "port"),
    *("netloc", "path", "query", "params", "raw_path", "fragment"),
    *("is_absolute_url", "is_relative_url"),
)
CANCEL = Request("POST", "/v2/jobs/42/cancel")


def url(base: str) -> httpx.URL:
    return Factory(Settings(TEST_KEY, base_url=base)).request(CANCEL).url


@pytest.mark.parametrize("base", BASES)
def test_the_url_is_the_one_that_httpx_would_have_parsed(base: str) -> None:
    parsed = httpx.URL(Settings(TEST_KEY, base_url=base).base_url + CANCEL.path)
    for name in ASKED:
        assert getattr(url(base), name) == getattr(parsed, name), name
    asked = url(base)
    assert [getattr(asked, name) for name in ASKED] == [getattr(parsed, name) for name in ASKED]
    for same in (url(base), httpx.URL(url(base)), copy.copy(url(base)), copy.deepcopy(url(base))):
        assert (same, str(same)) == (parsed, str(parsed))
        assert hash(same) == hash(parsed)
    assert pickle.loads(pickle.dumps(url(base))) == parsed  # noqa: S301
    assert url(base).copy_with(query=b"a=1") == parsed.copy_with(query=b"a=1")
    assert url(base).join("/else") == parsed.join("/else")
    assert url(base).copy_merge_params({"a": "1"}) == parsed.copy_merge_params({"a": "1"})
    with pytest.raises(AttributeError, match="nothing"):
        _ = url(base).nothing  # type: ignore[attr-defined]


def test_a_body_that_is_empty_has_no_piece() -> None:
    async def pieces(stream: httpx.AsyncByteStream) -> list[bytes]:
        return [piece async for piece in stream]

    stream = Factory(Settings(TEST_KEY)).request(CANCEL).stream
    assert isinstance(stream, httpx.SyncByteStream)
    assert isinstance(stream, httpx.AsyncByteStream)
    assert ([*stream], asyncio.run(pieces(stream))) == ([], [])
