"""A whole v1 integration on http.client, over one connection: see ``steps``."""

import http.client
from urllib.parse import urlsplit

import steps  # type: ignore[import-not-found]

connections: dict[str, http.client.HTTPConnection] = {}


def send(request: steps.Request) -> steps.Answer:
    url = steps.target(request)
    parts = urlsplit(url)
    kind = {"https": http.client.HTTPSConnection, "http": http.client.HTTPConnection}[parts.scheme]
    if parts.netloc not in connections:
        connections[parts.netloc] = kind(parts.netloc, timeout=30)
    connection = connections[parts.netloc]
    content, headers = steps.body(request)
    connection.request(request.method, url.partition(parts.netloc)[2], content, headers)
    answer = connection.getresponse()
    return steps.Answer(answer.status, [request.method, url], answer.headers, answer.read())


steps.run(send)
