"""Runs the ``python`` tools that the manifest declares: the function's source comes with the call, and runs here only.

Runs in a worker of kind ``fs_read`` or ``fs_write``. Behind the wall nothing can be imported that is not there already,
so what such functions may want of the standard library is imported here, ahead.
"""

from __future__ import annotations

import base64
import calendar
import csv
import datetime as dt
import decimal
import fractions
import hashlib
import html
import random
import statistics
import sys
import textwrap
import types
import urllib.parse
import uuid
import zoneinfo
from collections.abc import Mapping
from typing import Any

from app.tools.base import Confinement, ToolProblem, runner
from app.tools.worker import templates

AHEAD = (
    *(base64, calendar, csv, dt, decimal, fractions, hashlib, html, random, statistics, textwrap, urllib.parse),
    *(uuid, zoneinfo),
)
"""What a tool may import beside what workers have anyway."""


@runner
def call_python(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], secrets: Mapping[str, str], *, inside: Confinement
) -> dict[str, Any]:
    """Run a function of the manifest's owner with a model's arguments."""
    del secrets, inside
    module = types.ModuleType("airlab_tool")
    module.__file__ = settings["file"]
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    try:
        exec(compile(settings["source"], settings["file"], "exec"), module.__dict__)  # noqa: S102 # the wall is for it
    except (ImportError, PermissionError) as exc:
        raise ToolProblem("not_loaded", f"{settings['file']} needs what tools have not: {exc}. Tell the user.") from exc
    try:
        answer = getattr(module, settings["function"])(**{**settings["defaults"], **arguments})
    except ValueError as exc:  # how such a function says no
        raise ToolProblem("refused", str(exc)) from exc
    return templates.cut(answer, settings["max_answer"])
