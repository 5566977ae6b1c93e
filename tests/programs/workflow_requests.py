"""A whole v1 integration on requests: see ``steps``."""

import requests
import steps  # type: ignore[import-not-found]

session = requests.Session()


def send(request: steps.Request) -> steps.Answer:
    files = {request.file[0]: request.file[1:]} if request.file else None
    answer = session.request(
        request.method,
        request.url,
        params=request.params,
        json=request.json,
        files=files,
        headers=request.headers,
        timeout=30,
    )
    seen = [str(answer.request.method), answer.url]
    return steps.Answer(answer.status_code, seen, answer.headers, answer.content)


steps.run(send)
