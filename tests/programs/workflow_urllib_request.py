"""A whole v1 integration on the standard library's urllib.request: see ``steps``."""

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import steps  # type: ignore[import-not-found]


def send(request: steps.Request) -> steps.Answer:
    content, headers = steps.body(request)
    asked = Request(steps.target(request), content, headers, method=request.method)
    try:
        answer = urlopen(asked, timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        seen = [asked.get_method(), answer.geturl()]
        return steps.Answer(answer.status, seen, answer.headers, answer.read())


steps.run(send)
