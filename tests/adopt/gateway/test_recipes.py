"""The README's recipe for clients that hard-code the API's URL, with mitmproxy and curl.

Not part of the gate, as mitmproxy is large: ``REVENUEBASE_COMPAT_RECIPES=1 pytest -m recipe``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from revenuebase_compat.testing.sandbox import Sandbox
from tests.docs.readme import recipe
from tests.support.environments import environment

from .support import gateway_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.recipe,
    pytest.mark.skipif(
        not os.environ.get("REVENUEBASE_COMPAT_RECIPES"),
        reason="REVENUEBASE_COMPAT_RECIPES is unset",
    ),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


@contextmanager
def intercepting(gateway: str, folder: Path) -> Iterator[str]:
    """mitmproxy as the README starts it; its URL. Its CA lies in ``folder``."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    [told] = [text for text in recipe("URL fixed in the program") if text.startswith("mitmdump ")]
    name, *options = shlex.split(told.replace("http://127.0.0.1:8089", gateway))
    command = [str(environment("mitmproxy").with_name(name)), *options]
    command += ["--listen-port", str(port), "--set", f"confdir={folder}", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_client_that_hard_codes_the_url(tmp_path: Path) -> None:
    with (
        Sandbox(jobs=[42]) as sandbox,
        gateway_process(sandbox.base_url) as (_, gateway),
        intercepting(gateway, tmp_path) as proxy,
    ):
        authority = str(tmp_path / "mitmproxy-ca-cert.pem")
        environ = {"PATH": os.environ["PATH"], "HTTPS_PROXY": proxy, "CURL_CA_BUNDLE": authority}
        key = f"x-key: {sandbox.api_key}"

        def curl(path: str, *more: str) -> object:
            url = f"https://api.revenuebase.ai{path}"
            command = [
                "curl",
                "--silent",
                "--show-error",
                "--max-time",
                "30",
                "-H",
                key,
                url,
                *more,
            ]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        answer = curl("/v1/cancel-process", "--json", '{"process_id": 42}')
        assert isinstance(answer, dict)
        assert (answer["process_id"], answer["current_status"]) == (42, "CANCELLING")
        assert "credits" in str(curl("/v1/credits"))
        went = [f"{one.method} {one.path}" for one in sandbox.requests]
    assert went == ["POST /v2/jobs/42/cancel", "GET /v2/account/balance"]
