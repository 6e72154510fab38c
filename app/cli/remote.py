"""``airlab ps``, ``load`` and ``unload``: they ask the running AirLab over HTTP, like any other client."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from app.cli.main import DONE
from app.devices.ask import printable
from app.errors import AirLabError
from app.manifest.load import read_manifest
from app.settings import Settings, read_settings
from app.units import format_duration


def ps(options: argparse.Namespace) -> int:
    """Print every model with its state."""
    answer = _ask(options, "GET", "/ps")
    if options.json:
        print(json.dumps(answer))
        return DONE
    for row in answer["models"]:
        mark = "*" if row["key"] == answer["current"] else " "
        since = "" if row["for_s"] is None else f" for {format_duration(row['for_s'])}"
        busy = (
            f", {row['busy']} of {row['slots']} slots busy, {row['waiting']} waiting"
            if row["pid"] or row["container"]
            else ""
        )
        message = f" ({printable(row['message'])})" if row["message"] else ""
        where = f" in container {row['container']}" if row["container"] else ""
        print(f"{mark} {row['key']}: {row['state']}{where}{since}{busy}{message}")
    return DONE


def load(options: argparse.Namespace) -> int:
    """Load a model; returns when it is ready."""
    asked = {"beside": "true"} if options.beside else {}
    asked |= {"keep_alive": options.keep_alive} if options.keep_alive is not None else {}
    answer = _ask(options, "POST", f"/models/{quote(options.model, safe='')}/load?{urlencode(asked)}")
    print(f"{answer['model_key']} is ready after {format_duration(answer['load_time'])}")
    return DONE


def unload(options: argparse.Namespace) -> int:
    """Unload a model; returns when it is gone."""
    answer = _ask(options, "POST", f"/models/{quote(options.model, safe='')}/unload")
    print(f"{answer['model_key']} is unloaded")
    return DONE


@contextmanager
def connected(options: argparse.Namespace, *, as_user: bool = False) -> Iterator[httpx.Client]:
    """A client of the running AirLab, with the environment's key.

    Args:
        options: ``url`` names it, if the manifest and the environment do not.
        as_user: Take the use key where both are set; else the admin key.

    Raises:
        AirLabError: None answers, or what answers is none.
    """
    settings = read_settings()
    base = options.url or own_url(settings)
    key = settings.admin_key or settings.api_key
    if as_user:
        key = settings.api_key or settings.admin_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    # A load may take as long as it takes; the server watches its progress.
    timeout = httpx.Timeout(5, read=None)
    try:
        # No proxy of the environment's: the key is for AirLab alone.
        with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
            yield client
    except (httpx.HTTPError, ValueError) as exc:
        raise AirLabError(
            f"no AirLab answers at {base}: {exc or type(exc).__name__}; is `airlab serve` running?"
        ) from exc


def read(response: httpx.Response) -> Any:
    """The body of an answer.

    Raises:
        AirLabError: It is an error.
        ValueError: It is no JSON.
    """
    body = response.json()
    if response.is_error:
        raise AirLabError(body["error"]["message"])
    return body


def _ask(options: argparse.Namespace, method: str, path: str) -> Any:
    with connected(options) as client:
        return read(client.request(method, path))


def own_url(settings: Settings) -> str:
    """Where the AirLab of this manifest and environment serves."""
    server = read_manifest(settings.manifest).manifest.server
    host, port = settings.host or server.host, settings.port if settings.port is not None else server.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
