"""In a container the host's publication decides who can come, and outside of one nothing does but the address."""

from __future__ import annotations

import pytest

import app.service
from app.errors import SettingsError
from app.service import require_keys_for
from app.settings import Settings

WIDE = "0.0.0.0"


def settings(published: str) -> Settings:
    return Settings(AIRLAB_PUBLISHED=published)


@pytest.fixture
def in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.service, "in_container", lambda: True)


@pytest.mark.usefixtures("in_a_container")
def test_container_published_on_loopback_needs_no_keys() -> None:
    require_keys_for(WIDE, settings("127.0.0.1"))


@pytest.mark.usefixtures("in_a_container")
@pytest.mark.parametrize("published", [WIDE, "192.168.1.10", "::", "lab.example"])
def test_container_published_wider_needs_keys_and_says_where_to_write_them(published: str) -> None:
    with pytest.raises(SettingsError, match=r"\.env beside compose\.yaml"):
        require_keys_for(WIDE, settings(published))


def test_outside_of_a_container_the_variable_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.service, "in_container", lambda: False)
    with pytest.raises(SettingsError, match="others can reach"):
        require_keys_for(WIDE, settings("127.0.0.1"))
