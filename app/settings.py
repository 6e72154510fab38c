"""The environment, read once and frozen; where it and the manifest both speak, the environment wins.

Keys never leave this module as plain text: they are ``SecretStr``, so that a log line or a traceback cannot show them.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError


class Settings(BaseSettings):
    """What the environment says. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True)

    manifest: Path = Field(Path("airlab.yaml"), validation_alias="AIRLAB_MANIFEST")
    host: str | None = Field(None, validation_alias="AIRLAB_HOST")
    port: Annotated[int, Field(ge=0, le=65535)] | None = Field(None, validation_alias="AIRLAB_PORT")
    state_dir: Path | None = Field(None, validation_alias="AIRLAB_STATE_DIR")
    profile: str | None = Field(None, validation_alias="AIRLAB_PROFILE")
    api_key: SecretStr | None = Field(None, validation_alias="AIRLAB_API_KEY")
    admin_key: SecretStr | None = Field(None, validation_alias="AIRLAB_ADMIN_KEY")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], NoDecode] = Field(
        "info", validation_alias="AIRLAB_LOG_LEVEL"
    )
    launcher: Path | None = Field(None, validation_alias="AIRLAB_LAUNCHER")
    llama_server_path: Path | None = Field(None, validation_alias="LLAMA_SERVER_PATH")
    n_gpu_layers: Annotated[int, Field(ge=-1, le=1000)] | None = Field(None, validation_alias="N_GPU_LAYERS")

    @property
    def home(self) -> Path:
        """The folder of the manifest: paths in it, ``models/`` among them, are relative to this."""
        return self.manifest.resolve().parent

    @property
    def state(self) -> Path:
        """Where AirLab keeps what must survive a restart: ``.airlab`` beside the manifest unless told otherwise."""
        return (self.state_dir or self.home / ".airlab").resolve()

    @property
    def run_dir(self) -> Path:
        """Where this installation's sockets lie: short, since a unix socket's path may have 107 bytes at most.

        Named after the state folder, so that a restart finds, and clears, what its predecessor left.
        """
        digest = hashlib.sha256(str(self.state).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"airlab-{digest}"


def read_settings(**overrides: object) -> Settings:
    """The environment with the command line's overrides (None: not given) on top.

    Raises:
        SettingsError: A variable holds what it may not; every such variable is named with what is allowed.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic checks them
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in exc.errors()]
        raise SettingsError("The environment has settings that AirLab cannot use:\n" + "\n".join(lines)) from exc
