"""GET /manifest and POST /manifest/reload: what is in force, what the last look at the file said, and looking again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromQuery

from app.api.auth import Scope
from app.api.errors import answer_for
from app.live.reload import Attempt
from app.manifest.problems import ManifestProblems, Problem, shown_path
from app.service import Service


@get("/manifest", opt={"scope": Scope.ADMIN})
async def manifest(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The manifest in force with its text, and what came of reading the file last; the ETag is its SHA-256."""
    service: Service = request.app.state.owner.service
    reload, snapshot = service.reload, service.live.current
    body = {
        "generation": snapshot.generation,
        "sha256": snapshot.digest,
        "file": str(service.settings.manifest),
        "loaded_at": _time(reload.loaded_at_s),
        "profile": {"name": snapshot.profile.name, "reason": snapshot.profile.reason},
        "current": snapshot.chosen_model,
        "tools_closed": snapshot.policy.closed,
        "last_attempt": _attempt(reload.last),
        "text": reload.loaded.text,
    }
    return Response(body, headers={"etag": f'"{snapshot.digest}"'})


@post("/manifest/reload", opt={"scope": Scope.ADMIN}, status_code=200)
async def reload_manifest(
    request: Request[Any, Any, Any], dry_run: FromQuery[bool] = False, confirm: FromQuery[str | None] = None
) -> Response[dict[str, Any]]:
    """Read the file now, and put it in force; with ``dry_run`` only say what that would do.

    ``If-Match`` with a SHA-256 refuses (412) unless that manifest is in force. A file that is not right is 422 with
    every problem; what was in force stays.
    """
    service: Service = request.app.state.owner.service
    service.refuse_if_stopping()
    try:
        attempt = await service.reload.read_again(dry_run=dry_run, if_match=if_match(request), confirm=confirm)
    except ManifestProblems as exc:
        answer = answer_for(exc)
        body = {"error": answer.error, "detail": exc.message, "problems": problems_json(exc.problems)}
        return Response(body, status_code=answer.status)
    snapshot = service.live.current
    told: dict[str, Any] = {
        "status": "success",
        "message": _words(attempt, dry_run=dry_run),
        "generation": snapshot.generation,
        "sha256": snapshot.digest,
        "dry_run": dry_run,
        "result": attempt.result,
        "plan": attempt.plan.to_json() if attempt.plan else None,
    }
    return Response(told)


def if_match(request: Request[Any, Any, Any]) -> str | None:
    """The SHA-256 that must be in force, where the caller names one; ``*`` is any."""
    value = request.headers.get("if-match")
    return None if value in (None, "*") else value.removeprefix("W/").strip('"')


def problems_json(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    """Problems for programs: the path as text, line and column from 1."""
    return [
        {
            "path": shown_path(problem.path),
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "allowed": problem.allowed,
            "fix": problem.fix,
        }
        for problem in problems
    ]


def _words(attempt: Attempt, *, dry_run: bool) -> str:
    lines = "; ".join(attempt.plan.lines()) if attempt.plan else ""
    if attempt.result == "unchanged" or not lines:
        return "nothing changes" if dry_run else "nothing changed"
    return f"would {lines}" if dry_run else f"in force: {lines}"


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": _time(attempt.at_s),
        "ok": attempt.result != "failed",
        "error": attempt.error,
        "problems": problems_json(attempt.problems),
        "plan": attempt.plan.to_json() if attempt.plan else None,
    }


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
