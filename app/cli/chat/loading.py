"""Switches the model, and shows how far that is: a bar while it is downloaded, its state while it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from app.cli.chat.clean import one_line
from app.client.client import Client
from app.client.shapes import Model, Switched
from app.errors import AirLabError
from app.units import format_bytes

_LOOKS_S = 0.3


def switch_shown(client: Client, console: Console, model_key: str) -> Switched:
    """Switch, showing the progress; Ctrl-C stops looking, the load goes on in AirLab.

    Raises:
        AirLabError: It does not come up; or ``KeyboardInterrupt``, of the person.
    """
    result: Future[Switched] = Future()
    # A daemon: who presses Ctrl-C and leaves need not wait for the load.
    threading.Thread(target=_switch, args=(client, model_key, result), daemon=True).start()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(one_line(model_key, 40), total=None)
        while True:
            try:
                return result.result(_LOOKS_S)
            except NotYetError:
                if result.done():  # it is the switch itself that ended so
                    raise
                _look(client, model_key, progress, task)


def _switch(client: Client, model_key: str, result: Future[Switched]) -> None:
    try:
        result.set_result(client.switch_model(model_key))
    except BaseException as exc:  # noqa: BLE001 # raised where it is waited for
        result.set_exception(exc)


def _look(client: Client, model_key: str, progress: Progress, task: TaskID) -> None:
    try:
        model = next((model for model in client.models() if model.key == model_key), None)
    except AirLabError:
        return  # the switch itself will say what is wrong
    if model is not None:
        words, done, total = progress_of(model)
        progress.update(task, description=words, completed=done, total=total)


def progress_of(model: Model) -> tuple[str, float, float | None]:
    """What a model is busy with in words, with how much of how much; the whole is None where nobody knows it."""
    name, download = one_line(model.key, 40), model.download
    if model.exists or not isinstance(download, Mapping) or download.get("total_bytes") is None:
        return f"{name} is {one_line(model.state, 20)}", 0, None
    done, total = _count(download.get("done_bytes")), _count(download["total_bytes"])
    state = one_line(str(download.get("state", "downloading")), 20)
    return f"{name}: {state}, {format_bytes(done)} of {format_bytes(total)}", done, total or None


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
