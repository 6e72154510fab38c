"""The tool ``measure_http_latency``."""

from __future__ import annotations

from app.tools.base import Confinement, tool
from app.tools.worker import http


@tool(risk="net", timeout_s=12)
def measure_http_latency(hostname: str, *, inside: Confinement) -> dict[str, object]:
    """Measure how many milliseconds a web server takes from the first try to connect until it begins to answer.

    hostname: the name, such as "example.org", for https; "http://example.org" for http.
    """
    target = http.read_target(hostname, inside)
    answer = http.ask(target, inside)
    result: dict[str, object] = {"latency_ms": round(answer.took_s * 1000, 1)}
    if 300 <= answer.status < 400:
        where = f" to {answer.location!r}" if answer.location else ""
        result["note"] = f"the server answered with a redirect ({answer.status}){where}, which was not followed"
    return result
