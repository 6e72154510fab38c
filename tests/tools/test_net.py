"""Which addresses may be contacted, and what a lookup says; no test needs the internet."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from app.tools.base import Confinement, ToolProblem
from app.tools.builtin.lookup_hostname import lookup_hostname
from app.tools.worker import net

INSIDE = Confinement("net")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
    ],
)
def test_fault_065_address_that_is_not_public_is_not_contacted(text: str) -> None:
    address = ipaddress.ip_address(text)

    assert not net.is_public(address)
    with pytest.raises(ToolProblem) as caught:
        net.answer_ms(address, INSIDE)
    assert caught.value.code == "address_not_allowed"


def test_private_network_that_policy_names_may_be_contacted_and_no_other() -> None:
    inside = Confinement("net", allow_private=("10.0.0.0/8", "fd00::/8"))

    for text in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1", "1.1.1.1"):
        assert net.may_contact(ipaddress.ip_address(text), inside), text
    for text in ("192.168.0.1", "127.0.0.1", "::1", "fe80::1", "::ffff:192.168.0.1"):
        assert not net.may_contact(ipaddress.ip_address(text), inside), text


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_address_on_the_open_internet_is_public(text: str) -> None:
    assert net.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f000001", "①②⑦.⓪.⓪.①"])
def test_every_way_to_write_loopback_is_resolved_but_not_contacted(name: str) -> None:
    found = lookup_hostname(name, inside=INSIDE)

    assert found["ip"] in {"127.0.0.1", "::1"}
    assert found["ping_ms"] is None
    assert "not contacted" in str(found["note"])


@pytest.mark.parametrize(
    "name", ["", "a" * 254, "a\0b", "a\r\nHost: b", "https://example.org", "a b", "user@host", "℀.example", "ü" * 70]
)
def test_what_is_no_host_name_is_refused_before_it_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)

    with pytest.raises(ToolProblem) as caught:
        lookup_hostname(name, inside=INSIDE)

    assert caught.value.code == "invalid_hostname"


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_one_private_address_among_public_ones_spoils_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "1.1.1.1", "192.168.0.1")

    assert "192.168.0.1 is not a public address" in str(lookup_hostname("two-faced.example", inside=INSIDE)["note"])


def test_answers_beyond_twenty_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, *(f"1.1.1.{number}" for number in range(200)))

    assert len(net.resolve("many.example")) == 20


def test_unknown_name_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(ToolProblem, match="Check the spelling"):
        lookup_hostname("no.such.example", inside=INSIDE)


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the timing itself be tried on this machine."""
    resolving(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(net, "is_public", lambda _: True)


@pytest.mark.usefixtures("public_loopback")
def test_without_echo_the_time_of_a_connection_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_echo_s", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        inside = Confinement("net", ports=(server.getsockname()[1],))
        answered = lookup_hostname("here.example", inside=inside)

    assert isinstance(answered["ping_ms"], float)


@pytest.mark.usefixtures("public_loopback")
def test_host_that_answers_nothing_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_echo_s", lambda _: None)
    monkeypatch.setattr(net, "_connect_s", lambda *_: None)

    assert lookup_hostname("silent.example", inside=INSIDE) == {"ip": "127.0.0.1", "ping_ms": None}
