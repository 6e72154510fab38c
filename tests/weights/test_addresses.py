"""Where a redirect may lead: into the internet, however a private address is written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from app.errors import DownloadError
from app.weights.addresses import is_public, public_address


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe"),
    ],
)
def test_fault_065_private_address_is_none_of_the_internet_in_any_dress(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_address_is_one(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "localhost"])
async def test_fault_065_odd_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(DownloadError, match=r"no public address|has no address"):
        await public_address(host, 443)
