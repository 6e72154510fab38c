"""Graphics cards that are plugged in, whether or not a driver shows them; as /sys tells."""

from __future__ import annotations

from pathlib import Path

from app.devices.cpu import read

_NVIDIA, _DISPLAY = "0x10de", "0x03"


def nvidia_cards(root: Path = Path("/")) -> int:
    """How many of NVIDIA's are on the PCI bus; 0 also where nobody says, as in WSL2's virtual machine."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return sum(
        read(device / "vendor").strip() == _NVIDIA and read(device / "class").startswith(_DISPLAY) for device in devices
    )
