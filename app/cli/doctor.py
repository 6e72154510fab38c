"""``airlab doctor``: what this machine has and lacks. Only looks: nothing is started, changed, or sent elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TextIO

from app.cli.findings import Finding, in_time, look, words_of
from app.cli.main import DONE, FAILED
from app.devices.sandbox import wsl_version
from app.errors import SettingsError

_OLDEST, _NEWEST = (3, 11), (3, 13)
_LIMIT_S = 20.0
"""For everything that is read, and again for all checks together; each has shorter limits of its own."""
_LEAST_WIDTH, _MOST_WIDTH = 60, 100
_SHOWN = {"ok": ("ok", 32), "warning": ("warning", 33), "problem": ("problem", 31), "not applicable": ("-", 2)}
"""The word for each verdict, and ANSI's number for its colour."""


def doctor(options: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if a problem is among it."""
    findings = list(_findings(options))
    problems = sum(finding.verdict == "problem" for finding in findings)
    warnings = sum(finding.verdict == "warning" for finding in findings)
    if options.json:
        fields = ("name", "verdict", "found", "to_fix")
        checks = [{field: getattr(finding, field) for field in fields} for finding in findings]
        print(json.dumps({"problems": problems, "warnings": warnings, "checks": checks}))
    else:
        width = min(_MOST_WIDTH, max(_LEAST_WIDTH, shutil.get_terminal_size((80, 24)).columns))
        print("\n".join(lines(findings, width=width, coloured=wants_colour(sys.stdout, os.environ))))
        print(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return FAILED if problems else DONE


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    yield (python := _python(platform.system(), platform.release(), sys.version_info[:2]))
    if python.verdict == "problem":
        return
    # Not before: on Windows itself these cannot be imported.
    from app.cli.checks import machine_checks  # noqa: PLC0415
    from app.cli.checkup import read_facts  # noqa: PLC0415
    from app.settings import read_settings  # noqa: PLC0415

    facts = None
    try:
        settings = read_settings(manifest=options.file, profile=options.profile)
    except SettingsError as exc:
        yield Finding("environment", "problem", exc.message)
    else:
        known = (str(field.validation_alias) for field in type(settings).model_fields.values())
        given = [name for name in known if os.environ.get(name)]
        yield Finding("environment", "ok", f"{', '.join(given)} given" if given else "nothing that AirLab reads is set")
        [read] = in_time([partial(read_facts, settings)], limit_s=_LIMIT_S)
        if isinstance(read, Exception):
            yield Finding("manifest", "problem", f"{settings.manifest} could not be looked at: {words_of(read)}")
        else:
            facts, findings = read
            yield from findings
    yield from look(machine_checks(facts), limit_s=_LIMIT_S)


def _python(system: str, release: str, version: tuple[int, ...]) -> Finding:
    found = f"Python {platform.python_version()} on {system} {release}"
    if system == "Windows":
        fix = "run AirLab in WSL2 or Docker Desktop"
        return Finding("python", "problem", f"{found}: AirLab does not run on Windows itself", fix)
    wsl = wsl_version(release)
    if wsl:
        found += f", which is WSL{wsl}"
    if wsl == 1:
        return Finding("python", "problem", f"{found} and has no Linux kernel", "wsl --set-version DISTRIBUTION 2")
    if not _OLDEST <= version <= _NEWEST:
        span = " to ".join(".".join(map(str, each)) for each in (_OLDEST, _NEWEST))
        return Finding("python", "warning", f"{found}: AirLab is made for Python {span}", "make setup with another one")
    return Finding("python", "ok", found)


def wants_colour(out: TextIO, environment: Mapping[str, str]) -> bool:
    """On a terminal only, and not where NO_COLOR (https://no-color.org) or a dumb terminal asks for none."""
    return out.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def lines(findings: Sequence[Finding], *, width: int, coloured: bool) -> Iterator[str]:
    """The findings as a table: verdict, name, and what was found, wrapped in the last column."""
    names = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        word, colour = _SHOWN[finding.verdict]
        verdict = f"{word:9}"
        if coloured:
            verdict = f"\033[{colour}m{verdict}\033[0m"
        texts = [*finding.found.splitlines(), *(f"to fix: {line}" for line in (finding.to_fix or "").splitlines())]
        room = width - 9 - names
        rows = [row for text in texts for row in _wrapped(text, room)]
        yield f"{verdict}{finding.name:{names}}{rows[0]}"
        yield from (f"{'':{9 + names}}{row}" for row in rows[1:])


def _wrapped(text: str, room: int) -> list[str]:
    # Names of processes and words of daemons come from elsewhere: none of them may steer the terminal.
    plain = "".join(char if char.isprintable() else "\ufffd" for char in text)
    indent = plain[: len(plain) - len(plain.lstrip())]
    return textwrap.wrap(plain, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
