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
from app.files import read_regular

_KEY_BYTES = 1024
_DOCKER_SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """What the environment says. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True)

    manifest: Path = Field(Path("airlab.yaml"), validation_alias="AIRLAB_MANIFEST")
    home_dir: Path | None = Field(None, validation_alias="AIRLAB_HOME")
    host: str | None = Field(None, validation_alias="AIRLAB_HOST")
    port: Annotated[int, Field(ge=0, le=65535)] | None = Field(None, validation_alias="AIRLAB_PORT")
    published: str | None = Field(None, validation_alias="AIRLAB_PUBLISHED")
    """In a container: the address of its host on which our port is published, and who can reach us by that."""
    state_dir: Path | None = Field(None, validation_alias="AIRLAB_STATE_DIR")
    profile: str | None = Field(None, validation_alias="AIRLAB_PROFILE")
    api_key: SecretStr | None = Field(None, validation_alias="AIRLAB_API_KEY")
    admin_key: SecretStr | None = Field(None, validation_alias="AIRLAB_ADMIN_KEY")
    api_key_file: Path | None = Field(None, validation_alias="AIRLAB_API_KEY_FILE")
    admin_key_file: Path | None = Field(None, validation_alias="AIRLAB_ADMIN_KEY_FILE")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], NoDecode] = Field(
        "info", validation_alias="AIRLAB_LOG_LEVEL"
    )
    launcher: Path | None = Field(None, validation_alias="AIRLAB_LAUNCHER")
    llama_server_path: Path | None = Field(None, validation_alias="LLAMA_SERVER_PATH")
    n_gpu_layers: Annotated[int, Field(ge=-1, le=1000)] | None = Field(None, validation_alias="N_GPU_LAYERS")
    llama_cache: Path | None = Field(None, validation_alias="LLAMA_CACHE")
    hf_hub_cache: Path | None = Field(None, validation_alias="HF_HUB_CACHE")
    hf_home: Path | None = Field(None, validation_alias="HF_HOME")
    hf_token: SecretStr | None = Field(None, validation_alias="HF_TOKEN")
    hf_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=2048)] | None = Field(
        None, validation_alias="HF_ENDPOINT"
    )
    hf_hub_offline: bool = Field(False, validation_alias="HF_HUB_OFFLINE")

    @property
    def hub_caches(self) -> tuple[Path, ...]:
        """Folders in which other programs may have put models of the hub: LLAMA_CACHE alone, else the hub's own."""
        if self.llama_cache is not None:
            return (self.llama_cache,)
        return (self.hf_hub_cache or (self.hf_home or Path.home() / ".cache" / "huggingface") / "hub",)

    @property
    def home(self) -> Path:
        """What paths in the manifest are relative to, ``models/`` among them: its own folder unless told otherwise."""
        return self.home_dir.resolve() if self.home_dir else self.folder

    @property
    def folder(self) -> Path:
        """The folder of the manifest, where tools written in Python lie, too."""
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
        SettingsError: A variable holds what it may not, every such one named with what is allowed; or a key's file
            cannot be read, or others can read it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type] # pydantic checks them
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in exc.errors()]
        raise SettingsError("The environment has settings that AirLab cannot use:\n" + "\n".join(lines)) from exc
    keys = {name: _key_in_file(settings, name) for name in ("api_key", "admin_key")}
    return settings.model_copy(update={name: key for name, key in keys.items() if key is not None})


def _key_in_file(settings: Settings, name: str) -> SecretStr | None:
    """A key that stands in a file of its own, so that it is in no environment; None where no file is named."""
    variable, path = f"AIRLAB_{name.upper()}_FILE", getattr(settings, f"{name}_file")
    if path is None:
        return None
    if getattr(settings, name) is not None:
        raise SettingsError(f"{variable} and AIRLAB_{name.upper()} are both set; set one of them")
    try:
        data, mode = read_regular(path, most_bytes=_KEY_BYTES)
        key = data.decode().strip()
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{variable} names {path}, which cannot be read as a key: {exc}") from exc
    # Docker lays its secrets there for one container alone, readable by every user in it.
    if mode & 0o077 and path.parent != _DOCKER_SECRETS:
        raise SettingsError(f"{path} ({variable}) can be read by other users; do: chmod 600 {path}")
    if not key or len(key) > _KEY_BYTES or not key.isprintable():
        raise SettingsError(f"{path} ({variable}) holds no key: one line of at most {_KEY_BYTES} bytes is wanted")
    return SecretStr(key)
