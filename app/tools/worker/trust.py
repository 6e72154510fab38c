"""The certificates that the system trusts, read when this module is imported: behind the wall no file can be.

Imported by the zygote, ahead of every fork; the service itself has no use for it, and it takes 30 ms and a few MiB.
"""

from __future__ import annotations

import ssl
from pathlib import Path

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)
"""Asked for after the place that Python's OpenSSL was built with, which some builds of Python have wrong."""


def _trusting_the_system() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name by itself
    context.set_alpn_protocols(["http/1.1"])
    places = (ssl.get_default_verify_paths().cafile, *_BUNDLES)
    bundle = next((place for place in places if place and Path(place).is_file()), None)
    if bundle is not None:
        context.load_verify_locations(bundle)
    return context


CONTEXT = _trusting_the_system()
"""Trusts nobody where the system has no certificates."""
