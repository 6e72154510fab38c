"""The environment is read once, every mistake in it is named, and no key ever shows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import SettingsError
from app.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("AIRLAB_", "HF_", "LLAMA_")) or n == "N_GPU_LAYERS"]:
        monkeypatch.delenv(name)


def test_nothing_set_leaves_everything_to_the_manifest() -> None:
    settings = read_settings()
    assert settings.manifest == Path("airlab.yaml")
    given = settings.model_dump(exclude={"manifest", "log_level", "hf_hub_offline"})
    assert set(given.values()) == {None}
    assert settings.hf_hub_offline is False


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_PORT", "9000")
    monkeypatch.setenv("N_GPU_LAYERS", "-1")
    monkeypatch.setenv("LLAMA_SERVER_PATH", "/opt/llama-server")
    settings = read_settings()
    assert (settings.port, settings.n_gpu_layers) == (9000, -1)
    assert settings.llama_server_path == Path("/opt/llama-server")


@pytest.mark.parametrize("name", ["AIRLAB_PORT", "AIRLAB_API_KEY", "AIRLAB_LOG_LEVEL", "N_GPU_LAYERS", "AIRLAB_HOST"])
def test_variable_that_is_set_but_empty_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose files write ${AIRLAB_API_KEY:-}; an empty key must not become one that anybody has."""
    monkeypatch.setenv(name, "")
    assert read_settings() == Settings()
    assert read_settings().api_key is None


def test_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_PORT", "9000")
    assert read_settings(port=9001).port == 9001
    assert read_settings(port=None).port == 9000


def test_every_bad_variable_is_named_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_PORT", "99999")
    monkeypatch.setenv("AIRLAB_LOG_LEVEL", "loud")
    monkeypatch.setenv("N_GPU_LAYERS", "many")
    with pytest.raises(SettingsError) as refused:
        read_settings()
    lines = refused.value.message.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["AIRLAB_PORT", "AIRLAB_LOG_LEVEL", "N_GPU_LAYERS"]
    assert "65535" in lines[1]
    assert "'debug', 'info', 'warning' or 'error'" in lines[2]


def test_keys_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_API_KEY", "use-me-secretly")
    monkeypatch.setenv("AIRLAB_ADMIN_KEY", "rule-me-secretly")
    settings = read_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}"):
        assert "secretly" not in shown
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "use-me-secretly"


def test_error_about_another_variable_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_API_KEY", "use-me-secretly")
    monkeypatch.setenv("AIRLAB_PORT", "ninety")
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert "secretly" not in refused.value.message
    assert "secretly" not in repr(refused.value.__cause__)


def keep_key_in(path: Path, content: str, monkeypatch: pytest.MonkeyPatch, *, mode: int = 0o600) -> None:
    path.write_text(content)
    path.chmod(mode)
    monkeypatch.setenv("AIRLAB_ADMIN_KEY_FILE", str(path))


def test_key_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's secrets and systemd's credentials are files: an environment is inherited, and shown by ps."""
    keep_key_in(tmp_path / "admin.key", "rule-me-secretly\n", monkeypatch)
    settings = read_settings()
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "rule-me-secretly"
    assert "secretly" not in repr(settings)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_fault_063_key_file_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    keep_key_in(tmp_path / "admin.key", "rule-me-secretly\n", monkeypatch, mode=mode)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert f"chmod 600 {tmp_path}/admin.key" in refused.value.message
    assert "secretly" not in refused.value.message


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "k" * 2000, "\x00"])
def test_key_file_without_one_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """An empty key would let in whoever sends none."""
    keep_key_in(tmp_path / "admin.key", content, monkeypatch)
    with pytest.raises(SettingsError, match="holds no key"):
        read_settings()


def test_key_file_that_is_missing_or_beside_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLAB_ADMIN_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings()
    monkeypatch.setenv("AIRLAB_ADMIN_KEY", "rule-me")
    with pytest.raises(SettingsError, match="both set"):
        read_settings()


@pytest.mark.parametrize("what", ["fifo", "folder"])
def test_key_file_that_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whoever opens a FIFO that nobody writes to waits for ever: AirLab would not start, and not say why."""
    place = tmp_path / "admin.key"
    os.mkfifo(place, 0o600) if what == "fifo" else place.mkdir(0o700)
    monkeypatch.setenv("AIRLAB_ADMIN_KEY_FILE", str(place))
    with pytest.raises(SettingsError, match=r"AIRLAB_ADMIN_KEY_FILE names .* cannot be read as a key: .*regular file"):
        read_settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_settings().port = 1  # type: ignore[misc] # mypy knows it, too


def test_state_lies_beside_the_manifest_unless_told_otherwise(tmp_path: Path) -> None:
    beside = read_settings(manifest=tmp_path / "airlab.yaml")
    assert beside.home == tmp_path
    assert beside.state == tmp_path / ".airlab"
    assert read_settings(state_dir=tmp_path / "elsewhere").state == tmp_path / "elsewhere"


def test_run_folder_is_short_and_the_installations_own(tmp_path: Path) -> None:
    """A unix socket's path may have 107 bytes; the state folder may lie as deep as it likes."""
    deep = read_settings(manifest=tmp_path / ("deep/" * 40) / "airlab.yaml").run_dir
    other = read_settings(manifest=tmp_path / "airlab.yaml").run_dir
    assert deep != other
    assert len(str(deep)) == len(str(other)) < len(tempfile.gettempdir()) + 30
    assert read_settings(manifest=tmp_path / "airlab.yaml").run_dir == other


def test_caches_of_the_hub_are_those_that_its_own_programs_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings().hub_caches == (tmp_path / ".cache" / "huggingface" / "hub",)
    monkeypatch.setenv("HF_HOME", "/hf")
    assert read_settings().hub_caches == (Path("/hf/hub"),)
    monkeypatch.setenv("HF_HUB_CACHE", "/hf/cache")
    assert read_settings().hub_caches == (Path("/hf/cache"),)
    monkeypatch.setenv("LLAMA_CACHE", "/llama")
    assert read_settings().hub_caches == (Path("/llama"),)


def test_home_is_the_manifests_folder_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container the manifest is mounted read-only, and what AirLab writes lies elsewhere."""
    monkeypatch.setenv("AIRLAB_MANIFEST", str(tmp_path / "config" / "airlab.yaml"))
    assert read_settings().home == read_settings().folder == tmp_path / "config"
    monkeypatch.setenv("AIRLAB_HOME", str(tmp_path))
    settings = read_settings()
    assert (settings.home, settings.folder) == (tmp_path, tmp_path / "config")
    assert settings.state == tmp_path / ".airlab"
