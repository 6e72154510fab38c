"""RunSpec -> the body of a container, as data: what may come in, and what a daemon may not leave out."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.engines.base import WeightsId
from app.engines.container import (
    NOBODY,
    Image,
    Where,
    body_of,
    differences,
    files_of,
    host_path,
    order_of,
    places_inside,
    section_of,
    spec_digest,
)
from app.engines.docker import user_for
from app.engines.placement import Placement
from app.errors import EngineError
from tests.engines.containers import IMAGE_ID, PLAIN, container_run, order
from tests.fakes import run_spec


def inspected(body: dict[str, Any]) -> dict[str, Any]:
    """What Docker would say of a container that is exactly this."""
    config = {name: copy.deepcopy(value) for name, value in body.items() if name not in {"Image", "HostConfig"}}
    mounts = [{"Destination": mount["Target"]} for mount in body["HostConfig"]["Mounts"]]
    return {"Image": body["Image"], "Mounts": mounts, "Config": config, "HostConfig": copy.deepcopy(body["HostConfig"])}


def test_container_is_walled_in_whatever_the_manifest_says() -> None:
    """The fields that make the wall do not depend on anything."""
    plain = body_of(order(container_run()))["HostConfig"]
    rich = body_of(
        order(
            container_run(engine={"gpus": "all", "memory": 2**30, "pids": 64, "cpuset": "0", "mems": "0"}),
            Placement("0", "0", ("0",)),
        )
    )["HostConfig"]
    free = {"Memory", "MemorySwap", "PidsLimit", "CpusetCpus", "CpusetMems", "DeviceRequests"}

    assert {name: value for name, value in plain.items() if name not in free} == {
        name: value for name, value in rich.items() if name not in free
    }
    assert rich["Memory"] == rich["MemorySwap"] == 2**30
    assert (rich["PidsLimit"], rich["CpusetCpus"], rich["CpusetMems"]) == (64, "0", "0")


def test_container_sees_its_files_and_its_socket_only() -> None:
    adapter = WeightsId(Path("/models/custom/m.gguf"), 10, 1)
    body = body_of(order(container_run(adapters=(adapter,))))

    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in body["HostConfig"]["Mounts"]] == [
        ("/models/m.gguf", "/m/0/m.gguf", True),
        ("/models/custom/m.gguf", "/m/1/m.gguf", True),
        ("/run/c/1-small", "/s", False),
    ]
    told = body["Cmd"]
    assert told[told.index("--model") + 1] == "/m/0/m.gguf"
    assert told[told.index("--lora") + 1] == "/m/1/m.gguf"
    assert told[told.index("--host") + 1] == "/s/llama.sock"
    assert not [part for part in told if part.startswith(("/models", "/run"))]


def test_projector_and_draft_model_are_mounted_and_named_as_the_container_sees_them() -> None:
    """The draft model may be the model itself: one file, mounted once, and told twice."""
    run = container_run()
    eye = WeightsId(Path("/models/eye.gguf"), 10, 1)
    body = body_of(order(replace(run, mmproj=eye, draft_model=run.weights)))

    mounts = {mount["Source"]: mount["Target"] for mount in body["HostConfig"]["Mounts"]}
    told = body["Cmd"]
    assert set(mounts) == {"/models/m.gguf", "/models/eye.gguf", "/run/c/1-small"}
    assert told[told.index("--mmproj") + 1] == mounts["/models/eye.gguf"]
    assert told[told.index("--model") + 1] == told[told.index("--spec-draft-model") + 1] == mounts["/models/m.gguf"]


def test_adapter_that_llama_server_would_take_for_two_files_is_refused_in_a_container_too() -> None:
    adapter = WeightsId(Path("/models/custom/a,b.gguf"), 1, 1)
    with pytest.raises(EngineError, match=r"a,b.gguf for two files; rename it"):
        body_of(order(container_run(adapters=(adapter,))))


def test_nothing_of_our_environment_reaches_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LLAMA_ARG_TOOLS", "all")

    written = [
        "HOME=/tmp",
        "CUDA_CACHE_PATH=/tmp/cuda",
        "LLAMA_ARG_VIDEO_FFMPEG_DIR=/nonexistent",
        "NVIDIA_VISIBLE_DEVICES=void",
    ]
    assert body_of(order(container_run()))["Env"] == written


def test_model_in_parts_is_mounted_whole() -> None:
    run = container_run(Path("/models/big-00001-of-00003.gguf"))

    assert [str(inside) for _, inside in files_of(run)] == [f"/m/0/big-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert list(places_inside(run)) == [Path("/models/big-00001-of-00003.gguf")]


@pytest.mark.parametrize("linked", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
def test_link_that_leads_out_of_bounds_is_mounted_nowhere(tmp_path: Path, linked: str) -> None:
    """Whoever may write below models/ must not choose what of the host a container sees."""
    models, secret = tmp_path / "models", tmp_path / "secret"
    models.mkdir()
    secret.write_text("secret")
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        (models / f"real-{name}").write_bytes(b"GGUF")
        (models / name).symlink_to(models / f"real-{name}")
    where = Where(Path("/run/c"), None, "10001:10001", within=(models,))
    run = container_run(models / "m-00001-of-00002.gguf")

    made = order_of("small", run, "1-small", where=where, image=PLAIN, placement=Placement())
    assert [Path(mount.source).parent for mount in made.mounts[:2]] == [models, models]

    (models / linked).unlink()
    (models / linked).symlink_to(secret)
    with pytest.raises(EngineError, match=f"{linked} is a link that leads out of models/"):
        order_of("small", run, "1-small", where=where, image=PLAIN, placement=Placement())


def test_container_that_is_as_asked_has_no_differences() -> None:
    body = body_of(order(container_run(engine={"gpus": "all"}), Placement(gpus=("0", "2"))))

    assert differences(body, inspected(body)) == []


def test_container_with_another_gpu_than_was_chosen_is_seen() -> None:
    """Its memory was booked on that one."""
    body = body_of(order(container_run(engine={"gpus": "all"}), Placement(gpus=("2",))))
    found = inspected(body)
    found["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] = ["1"]

    assert differences(body, found) == ["DeviceRequests"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NetworkMode", "default"),
        ("Privileged", True),
        ("CapAdd", ["SYS_ADMIN"]),
        ("CapDrop", None),
        ("SecurityOpt", None),
        ("ReadonlyRootfs", False),
        ("PidMode", "host"),
        ("IpcMode", "host"),
        ("Binds", ["/:/host"]),
        ("Devices", [{"PathOnHost": "/dev/kmsg"}]),
        ("Tmpfs", None),
        ("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
        ("AutoRemove", True),
    ],
)
def test_hole_in_the_wall_is_seen_before_the_start(name: str, value: object) -> None:
    """A daemon, or what stands in for it, may drop with a warning what it cannot do."""
    body = body_of(order(container_run()))
    found = inspected(body)
    found["HostConfig"][name] = value

    assert differences(body, found) == [name]


def test_added_or_writable_mount_is_seen() -> None:
    body = body_of(order(container_run()))
    found = inspected(body)
    found["HostConfig"]["Mounts"][0]["ReadOnly"] = False
    assert differences(body, found) == ["Mounts"]

    found = inspected(body)
    found["HostConfig"]["Mounts"].append({"Type": "bind", "Source": "/", "Target": "/host"})
    assert differences(body, found) == ["Mounts"]


def test_volume_that_the_image_asks_for_is_nothing_and_cannot_be_written() -> None:
    """Docker would make a place on the host's disk, which a container could fill."""
    body = body_of(order(container_run(), image=Image(IMAGE_ID, ("/state",))))

    assert [(m["Type"], m["ReadOnly"]) for m in body["HostConfig"]["Mounts"] if m["Target"] == "/state"] == [
        ("tmpfs", True)
    ]
    found = inspected(body)
    found["Mounts"].append({"Type": "volume", "Destination": "/other", "RW": True})
    assert differences(body, found) == ["Mounts"]


def test_another_image_user_or_command_is_seen() -> None:
    body = body_of(order(container_run()))
    found = inspected(body)
    found["Image"] = "sha256:2"
    found["Config"] |= {"User": "", "Cmd": ["--tools"], "Entrypoint": ["sh"]}

    assert differences(body, found) == ["Cmd", "Entrypoint", "Image", "User"]


def test_limit_that_the_kernel_cannot_keep_is_no_hole() -> None:
    body = body_of(order(container_run(engine={"memory": 2**30})))
    found = inspected(body)
    found["HostConfig"] |= {"MemorySwap": -1, "PidsLimit": 0}

    assert differences(body, found) == []


MOUNTS = [
    {"Type": "bind", "Source": "/home/me/lab", "Destination": "/config"},
    {"Type": "volume", "Source": "/var/lib/docker/volumes/w/_data", "Destination": "/config/models"},
]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/config/airlab.yaml", "/home/me/lab/airlab.yaml"),
        ("/config/models/a.gguf", "/var/lib/docker/volumes/w/_data/a.gguf"),
        ("/config/models", "/var/lib/docker/volumes/w/_data"),
    ],
)
def test_path_in_our_own_container_is_found_on_the_host(path: str, there: str) -> None:
    """The daemon takes paths of the host, and we may see others."""
    assert host_path(Path(path), MOUNTS) == there


def test_path_that_is_nowhere_on_the_host_is_refused() -> None:
    with pytest.raises(EngineError, match=r"/configs/a\.gguf is in no mount"):
        host_path(Path("/configs/a.gguf"), MOUNTS)


def test_path_of_a_host_without_container_is_as_it_is() -> None:
    assert host_path(Path("/srv/a.gguf"), None) == "/srv/a.gguf"


def test_digest_leaves_out_the_numbers_and_nothing_else() -> None:
    run = container_run()
    same = replace(run, gpu_layers=7, context_length=9999, slots=3, threads=5)
    assert spec_digest(same) == spec_digest(run)

    file = WeightsId(Path("/models/a.gguf"), 1, 1)
    others = [
        container_run(engine={"image": "other:1"}),
        container_run(engine={"gpus": "all"}),
        container_run(Path("/models/other.gguf")),
        replace(run, weights=WeightsId(Path("/models/m.gguf"), 1000, 2)),
        replace(run, cache_type="q8_0"),
        replace(run, numa="distribute"),
        replace(run, kinds=frozenset({"embedding"})),
        replace(run, mmproj=file),
        replace(run, draft_model=file),
        replace(run, adapters=(file,)),
        replace(run, draft_model=file, draft_tokens=5),
    ]
    assert len({spec_digest(each) for each in (run, *others)}) == 1 + len(others)


def test_run_without_a_file_and_run_for_another_engine_are_refused() -> None:
    with pytest.raises(EngineError, match="no file"):
        order(replace(container_run(), weights=None))
    with pytest.raises(EngineError, match="native is none for Docker"):
        section_of(run_spec())


def test_image_is_named_by_its_id() -> None:
    """What a tag means may change between looking and starting."""
    assert body_of(order(container_run()))["Image"] == IMAGE_ID


@pytest.mark.parametrize(
    ("user", "security", "there"),
    [
        ("1000:1000", {"seccomp", "profile=builtin"}, "1000:1000"),
        ("1000:1000", {"rootless", "cgroupns"}, "0:0"),
        (NOBODY, {"userns"}, NOBODY),
    ],
)
def test_container_runs_as_somebody_to_whose_socket_we_may_connect(user: str, security: set[str], there: str) -> None:
    """A socket is made with the umask applied: its owner may connect, and root."""
    assert user_for(user, frozenset(security)) == there


def test_docker_whose_users_are_none_of_ours_is_refused_with_a_way_out() -> None:
    """The socket would be there, and never answer."""
    with pytest.raises(EngineError, match=r"userns-remap.*run AirLab in a container as well"):
        user_for("1000:1000", frozenset({"userns"}))
