"""Models that see, on the whole way: a projector in the manifest, an image in the request, words in the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.devices.resident import resident
from app.units import MIB
from bench.projectors import PROJECTORS, write_projector
from tests.conftest import MakeLab
from tests.support.gguf import gguf, minimal_gguf
from tests.support.pictures import asking, image_part, jpeg, png, sound_part, wav
from tests.support.service import CHAT, EngineKind, Lab, Service, events_of, wait_until

SEES: dict[str, Any] = {"context_length": 2048, "mmproj": "eye.gguf"}
NOISE = image_part(png(64, 48))


def lab_that_sees(make_lab: MakeLab, engine: EngineKind, **models: dict[str, Any]) -> Lab:
    lab = make_lab(engine, models={"small": SEES, **models}, profile={"n_threads": 1})
    write_projector(PROJECTORS[0], lab.folder / "models" / "eye.gguf")
    return lab


def entry(service: Service, key: str = "small") -> dict[str, Any]:
    models = service.http.get("/models").raise_for_status().json()["models"]
    return next(model for model in models if model["key"] == key)


def test_model_with_a_projector_answers_about_an_image(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """The projector has random weights, so that only that an image became tokens can be told."""
    with lab_that_sees(make_lab, engine_kind, blind={"context_length": 512}).serve() as service:
        text = service.chat(messages=asking())
        seen = service.chat(messages=asking(NOISE))
        with service.stream(messages=asking(NOISE), stream_options={"include_usage": True}) as answer:
            streamed = events_of(answer)
        refused = service.chat(model="blind", messages=asking(NOISE))
        fit = service.http.get("/models/small/fit").raise_for_status().json()
        assert entry(service, "small")["modalities"] == ["text", "image"]
        assert entry(service, "blind")["modalities"] == ["text"]

    assert {"projector", "buffers for an image", "images being read"} <= {item["what"] for item in fit["items"]}
    assert seen.status_code == 200
    assert seen.json()["choices"][0]["message"]["content"]
    assert seen.json()["usage"]["prompt_tokens"] > text.json()["usage"]["prompt_tokens"] + 10
    assert streamed[-1] == "[DONE]"
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content[1].image_url.url")
    assert refused.json()["error"]["message"].startswith("blind takes no images; to make it, set `mmproj: NAME.gguf`")


def test_picture_that_would_unpack_to_gigabytes_never_reaches_the_engine(
    make_lab: MakeLab, engine_kind: EngineKind
) -> None:
    with lab_that_sees(make_lab, engine_kind).serve() as service:
        assert service.chat(messages=asking(NOISE)).status_code == 200
        before = resident(service.engine().pid)
        large = service.chat(messages=asking(image_part(jpeg(60_000, 60_000), "jpeg")))
        broken = service.chat(messages=asking(image_part(png(64, 64)[:-40])))
        after = resident(service.engine().pid)

    assert (large.status_code, broken.status_code) == (400, 400)
    assert "60000 x 60000 pixels" in large.json()["error"]["message"]
    assert before is not None
    assert after is not None
    assert after.resident_bytes < before.resident_bytes + 64 * MIB


def test_sound_for_a_model_that_only_sees_is_refused_with_words(make_lab: MakeLab) -> None:
    with lab_that_sees(make_lab, "fake").serve() as service:
        refused = service.chat(messages=asking(sound_part(wav())))

    assert refused.status_code == 400
    assert "takes no sound; its multimodal projector is not made for hearing" in refused.json()["error"]["message"]


def test_chat_that_the_server_keeps_is_text_and_says_where_images_go(make_lab: MakeLab) -> None:
    with lab_that_sees(make_lab, "fake").serve() as service:
        refused = service.http.post("/chat", json={"messages": asking(NOISE)})

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"] == "/chat keeps text only; send images and sound to /v1/chat/completions"
    assert error["param"] == "messages[0].content[1].type"


def test_usual_photo_is_no_larger_than_a_body_may_be(make_lab: MakeLab) -> None:
    """Six million bytes of picture make eight of base64."""
    photo = jpeg(4608, 3456) + b"\xff\xda\0\x02" + bytes(5_900_000)
    with lab_that_sees(make_lab, "fake").serve() as service:
        assert service.chat(messages=asking(image_part(photo, "jpeg"))).status_code == 200


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (None, "its multimodal projector is not on disk; to fix: put it at models/eye.gguf"),
        (minimal_gguf(), "eye.gguf is no multimodal projector but "),
        (b"GGUF", "eye.gguf "),
    ],
    ids=["missing", "a model", "broken"],
)
def test_model_whose_projector_is_none_is_not_started(make_lab: MakeLab, file: bytes | None, said: str) -> None:
    lab = make_lab("fake", models={"small": SEES})
    if file is not None:
        (lab.folder / "models" / "eye.gguf").write_bytes(file)
    with lab.serve() as service:
        refused = service.chat()
        assert said in entry(service)["problem"]

    assert refused.status_code >= 400
    assert said in refused.json()["error"]["message"]


def test_projector_that_is_replaced_restarts_its_model(make_lab: MakeLab) -> None:
    lab = make_lab("fake", models={"small": SEES})
    eye = lab.folder / "models" / "eye.gguf"

    def put(size: int) -> None:
        part = Path(f"{eye}.part")
        part.write_bytes(gguf({"general.architecture": "clip", "general.type": "mmproj"}, data=bytes(size)))
        part.rename(eye)

    put(64)
    with lab.serve() as service:
        assert service.chat().status_code == 200
        before = service.engine().pid
        put(96)
        wait_until(lambda: service.model()["pid"] != before, "the engine that had the old projector is gone")
        assert service.chat().status_code == 200


def test_draft_model_guesses_and_the_answer_stays_the_same(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    """As its own draft, a model guesses right at once: that costs time here, and shows that it works."""
    drafted = {"draft_model": "small.gguf", "draft_tokens": 4}
    lab = make_lab(engine_kind, models={"small": {}, "fast": drafted}, profile={"n_threads": 1})
    asked = {"messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 24, "temperature": 0}
    with lab.serve() as service:
        plain = service.http.post(CHAT, json={"model": "small", **asked}).raise_for_status().json()
        fast = service.http.post(CHAT, json={"model": "fast", **asked}).raise_for_status().json()

    assert fast["choices"][0]["message"]["content"] == plain["choices"][0]["message"]["content"]
    assert fast["timings"]["draft_n_accepted"] > 0


def test_projector_for_another_model_is_refused_in_llama_servers_words(
    make_lab: MakeLab, engine_kind: EngineKind
) -> None:
    """Its width stands in another tensor for each kind, so only who loads it can tell; and once is enough."""
    lab = make_lab(engine_kind, models={"small": SEES})
    write_projector(replace(PROJECTORS[0], projected=512), lab.folder / "models" / "eye.gguf")
    with lab.serve() as service:
        refused = service.chat()
        service.until_state("small", "failed")

    assert refused.status_code == 503
    assert "you may be using wrong mmproj" in refused.json()["error"]["message"]
