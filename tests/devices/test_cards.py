"""Cards are counted by what the PCI bus says of them."""

from __future__ import annotations

from pathlib import Path

from app.devices.cards import nvidia_cards


def test_only_graphics_devices_of_nvidia_are_counted(tmp_path: Path) -> None:
    """A card shows up twice, once for its sound."""
    for name, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030000"),
        ("0000:01:00.1", "0x10de", "0x040300"),
        ("0000:00:02.0", "0x8086", "0x030000"),
    ):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert nvidia_cards(tmp_path) == 1


def test_bus_that_nobody_shows_has_no_cards(tmp_path: Path) -> None:
    assert nvidia_cards(tmp_path) == 0
