"""A whole v1 integration on urllib3: see ``steps``."""

from urllib.parse import urljoin

import steps  # type: ignore[import-not-found]
import urllib3

pool = urllib3.PoolManager()


def send(request: steps.Request) -> steps.Answer:
    url = steps.target(request)
    if request.file:
        fields = {request.file[0]: request.file[1:]}
        answer = pool.request(request.method, url, fields=fields, headers=request.headers)
    else:
        content, headers = steps.body(request)
        answer = pool.request(request.method, url, body=content, headers=headers, retries=2)
    seen = [request.method, urljoin(url, answer.geturl() or "")]
    return steps.Answer(answer.status, seen, answer.headers, answer.data)


steps.run(send)
