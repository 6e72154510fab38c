"""How often the kernel ended somebody for want of memory, as it tells that under each kind of cgroups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from app.devices.kills import out_of_memory_kills

_V2 = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"
_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
_HOST = "nr_free_pages 1\noom_kill 9\ndrop_pagecache 0\n"
_HYBRID = "9:name=systemd:/\n4:cpu,memory:/lab/one\n0::/\n"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": _V2, "proc/vmstat": _HOST}, 1),
        (
            {
                "proc/self/cgroup": "0::/user.slice/a:b\n",
                "sys/fs/cgroup/user.slice/a:b/memory.events": _V2,
                "proc/vmstat": _HOST,
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": _HYBRID,
                "sys/fs/cgroup/memory/lab/one/memory.oom_control": _V1,
                "proc/vmstat": _HOST,
            },
            2,
        ),
        # The root of all has no such file, and a container may see the host's path and not the files of it.
        ({"proc/self/cgroup": "0::/\n", "proc/vmstat": _HOST}, 9),
        ({"proc/self/cgroup": "4:memory:/docker/12\n", "proc/vmstat": _HOST}, 9),
        # Kernels before 4.19 do not count there.
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.events": "oom 2\n", "proc/vmstat": _HOST}, 9),
        ({"proc/vmstat": "nr_free_pages 1\n"}, 0),
        ({}, 0),
    ],
)
def test_kills_are_counted_in_our_cgroup_where_the_kernel_does_so(
    tmp_path: Path, files: Mapping[str, str], kills: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert out_of_memory_kills(tmp_path) == kills


def test_this_machine_tells_a_number() -> None:
    assert out_of_memory_kills() >= 0
