"""The tool ``get_current_time``."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from app.tools.base import ToolProblem, tool


@tool(risk="read")
def get_current_time(timezone: str = "UTC") -> dict[str, str]:
    """Tell the current date and time. timezone: an IANA name such as "Europe/Berlin"."""
    try:
        # UTC is known without the system's time zone files, which small images leave out.
        zone = UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as exc:
        raise ToolProblem(
            "unknown_timezone", f'There is no time zone {timezone[:80]!r}. Use an IANA name such as "Europe/Berlin".'
        ) from exc
    return {"time": datetime.now(zone).isoformat(timespec="seconds"), "timezone": timezone}
