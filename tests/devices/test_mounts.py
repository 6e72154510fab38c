"""What is mounted, as the kernel writes it."""

from __future__ import annotations

from pathlib import PurePosixPath

from app.devices.mounts import mount_points


def test_mount_points_are_read_with_the_blanks_in_their_names() -> None:
    text = (
        "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "612 580 8:1 /home/me/airlab.yaml /config/my\\040lab.yaml ro,relatime master:1 - ext4 /dev/sda1 rw\n"
        "\n"
        "nonsense\n"
    )
    assert mount_points(text) == {PurePosixPath("/"), PurePosixPath("/config/my lab.yaml")}
    assert mount_points("") == frozenset()
