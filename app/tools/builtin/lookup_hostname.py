"""The tool ``lookup_hostname``."""

from __future__ import annotations

from app.tools.base import Confinement, tool
from app.tools.worker import net


@tool(risk="net", cache_s=60, timeout_s=12)
def lookup_hostname(hostname: str, *, inside: Confinement) -> dict[str, object]:
    """Find the IP address of a host and how many milliseconds it takes to answer; null when it does not.

    hostname: the bare name, such as "example.org".
    """
    addresses = net.resolve(hostname)
    # One private address among public ones is how a name of the internet is made to point into a house.
    private = [address for address in addresses if not net.may_contact(address, inside)]
    if private:
        note = f"{private[0]} is not a public address, so the host was not contacted"
        return {"ip": str(addresses[0]), "ping_ms": None, "note": note}
    return {"ip": str(addresses[0]), "ping_ms": net.answer_ms(addresses[0], inside)}
