"""/sessions over real HTTP: listed, found, set, branched and removed, by their owner only."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.chat.talk import calls, configure, prompts, require_sound_store, said, session, streaming, visible
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, BOUND_S, KEYS, USE_KEY, Lab, Service


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab("fake", models={"small": {}, "other": {}}, profile={"parallel": 2})
    lab.fault("small", echo=True)
    lab.fault("other", echo=True)
    return lab


def names(service: Service, **query: Any) -> list[str]:
    listed = service.http.get("/sessions", params=query).raise_for_status().json()["sessions"]
    return [row["session_id"] for row in listed]


def post(service: Service, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = service.http.post(f"/sessions/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(view: dict[str, Any]) -> list[str]:
    return [message["content"] for message in view["messages"]]


@pytest.mark.parametrize("field", ["session_id", "name"])
@pytest.mark.parametrize("text", ["ends with a line\n", "a\x1b[2Jb", "a\x7fb"])
def test_no_name_holds_control_characters(fake: Service, field: str, text: str) -> None:
    assert fake.http.post("/sessions", json={"session_id": "control", field: text}).status_code == 400


def test_sessions_are_listed_last_used_first_named_by_themselves_and_paged(fake: Service) -> None:
    for session_id in ("list-a", "list-b", "list-c"):
        said(fake, f"# First words of {session_id}\nand more", session_id=session_id)
    said(fake, "again", session_id="list-a")

    first = fake.http.get("/sessions", params={"limit": 2}).json()
    rest = fake.http.get("/sessions", params={"limit": 200, "cursor": first["next_cursor"]}).json()

    assert [row["session_id"] for row in first["sessions"]] == ["list-a", "list-c"]
    assert rest["sessions"][0]["session_id"] == "list-b"
    assert rest["next_cursor"] is None
    row = first["sessions"][0]
    assert (row["name"], row["name_set"], row["message_count"]) == ("First words of list-a", False, 4)
    assert row["last_turn"]["status"] == "done"


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 201},
        {"cursor": "x"},
        {"cursor": "1" * 20 + ".1"},
        {"cursor": "\uff11.1"},
        {"q": "a", "cursor": "1.2"},
        {"q": "a", "cursor": "1" * 20},
        {"q": "a" * 201},
        {"view": "all", "pinned": "maybe"},
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(fake: Service, query: dict[str, Any]) -> None:
    assert fake.http.get("/sessions", params=query).status_code == 400


def test_search_finds_words_in_messages_and_names_and_marks_them(fake: Service) -> None:
    said(fake, "The quick zebra jumps", session_id="zebra")
    fake.http.patch("/sessions/zebra", json={"name": "Striped animals"}).raise_for_status()

    by_message = fake.http.get("/sessions", params={"q": "ZEBRA quick"}).json()["sessions"]
    by_name = fake.http.get("/sessions", params={"q": "striped"}).json()["sessions"]

    assert [row["session_id"] for row in by_message] == ["zebra"]
    [match] = by_message[0]["matches"]
    assert [match["snippet"][begin:end].lower() for begin, end in match["highlights"]] == ["quick", "zebra"]
    assert match["role"] == "user"
    assert by_name[0]["matches"] == [
        {"message_id": None, "role": None, "snippet": "Striped animals", "highlights": [[0, 7]]}
    ]
    assert fake.http.get("/sessions", params={"q": "giraffe"}).json()["sessions"] == []


def test_a_change_of_a_version_that_is_gone_is_refused(fake: Service) -> None:
    """Two windows on one session: the second must see what the first did before it changes anything."""
    said(fake, "hi", session_id="versions")
    seen = fake.http.get("/sessions/versions").headers["etag"]
    first = fake.http.patch("/sessions/versions", json={"pinned": True}, headers={"if-match": seen})
    second = fake.http.patch("/sessions/versions", json={"name": "mine"}, headers={"if-match": seen})

    assert first.status_code == 200
    assert first.headers["etag"] != seen
    assert second.status_code == 412
    assert second.json()["error"]["code"] == "precondition_failed"
    assert names(fake, pinned=True) == ["versions"]
    for route in ("switch", "undo"):
        answer = fake.http.post(f"/sessions/versions/{route}", json={"message_id": 1}, headers={"if-match": seen})
        assert answer.status_code == 412
    assert fake.http.delete("/sessions/versions", headers={"if-match": seen}).status_code == 412
    assert fake.http.patch("/sessions/versions", json={}, headers={"if-match": "abc"}).status_code == 412


def test_sessions_own_settings_count_where_a_request_says_nothing(lab: Lab) -> None:
    with lab.serve() as service:
        made = service.http.post(
            "/sessions", json={"session_id": "s", "model": "other", "system_prompt": "Be brief.", "temperature": 0.25}
        )
        own = said(service, "one")
        sent = prompts(service, "other")[-1]
        other = said(service, "two", model="small", system_prompt="Be long.", temperature=1)
        sent_other = prompts(service, "small")[-1]
        service.http.patch("/sessions/s", json={"model": None, "system_prompt": None}).raise_for_status()
        default = said(service, "three")
        settings = session(service)["settings"]

    assert made.status_code == 201
    assert (own["model"], other["model"], default["model"]) == ("other", "small", "small")
    assert (sent["messages"][0]["content"], sent["temperature"]) == ("Be brief.", 0.25)
    assert (sent_other["messages"][0]["content"], sent_other["temperature"]) == ("Be long.", 1)
    assert {name: value for name, value in settings.items() if value is not None} == {"temperature": 0.25}


def test_sessions_tools_are_on_offer_where_the_session_says_so(make_lab: MakeLab) -> None:
    lab = make_lab("fake")
    configure(lab, tools={"builtin": ["get_current_time"]})
    lab.fault("small", supports_tools=True, replies=[calls(("get_current_time", {"timezone": "UTC"})), "noon"])
    with lab.serve() as service:
        service.http.post("/sessions", json={"session_id": "s", "enable_tools": True}).raise_for_status()
        assert said(service, "when?")["tools_used"] == ["get_current_time(UTC)"]
        assert said(service, "when?", enable_tools=False)["tools_used"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"temperature": 3}, 400),
        ({"nmae": "x"}, 400),
        ({"name": ""}, 400),
        ({"name": "a\nb"}, 400),
        ({"model": "no-such"}, 404),
        ({"pinned": None}, 400),
    ],
)
def test_settings_that_could_never_work_are_refused_when_set(fake: Service, body: dict[str, Any], status: int) -> None:
    said(fake, "hi", session_id="wrong")
    assert fake.http.patch("/sessions/wrong", json=body).status_code == status


def test_edit_regenerate_switch_and_undo_move_between_branches_and_store_nothing_twice(lab: Lab) -> None:
    with lab.serve() as service:
        said(service, "one")
        two = said(service, "two")
        edited = post(service, "s/edit", message_id=two["user_message_id"], content="zwei", max_tokens=32)
        assert texts(session(service)) == ["one", "one", "zwei", edited["response"]]
        assert prompts(service)[-1]["messages"][-1]["content"] == "zwei"

        once_more = post(service, "s/regenerate")
        assert once_more["user_message_id"] == edited["user_message_id"]
        assert once_more["message_id"] > edited["message_id"]

        back = post(service, "s/switch", message_id=two["user_message_id"])
        assert texts(back) == ["one", "one", "two", "two"]
        assert back["head"] == two["message_id"]

        undone = post(service, "s/undo")
        assert undone["undone"] == {"message_id": two["user_message_id"], "content": "two"}
        assert texts(undone) == ["one", "one"]
        said(service, "two")  # said again, it is the same message
        tree = service.http.get("/sessions/s", params={"view": "tree"}).json()

    assert [message["content"] for message in tree["messages"] if message["role"] == "user"] == ["one", "two", "zwei"]
    assert [m["id"] for m in tree["messages"] if m["active"]] == [
        *(m["id"] for m in tree["messages"][:3]),
        tree["messages"][-1]["id"],
    ]
    assert {turn["status"] for turn in tree["turns"]} == {"done"}


def test_places_that_are_not_there_are_refused_and_leave_nothing(lab: Lab) -> None:
    with lab.serve() as service:
        said(service, "hi", session_id="theirs")
        answer = said(service, "hi")
        for route, body in (
            ("s/edit", {"message_id": answer["message_id"], "content": "x"}),
            ("s/edit", {"message_id": 1, "content": "x"}),  # of another session
            ("s/regenerate", {"message_id": 999}),
            ("s/regenerate", {"message_id": 2**70}),
            ("s/regenerate", {"message_id": 999, "stream": True}),
            ("s/switch", {"message_id": 1}),
            ("s/fork", {"message_id": answer["user_message_id"]}),
            ("s/resume", {}),
        ):
            assert "message" in post(service, route, 400, **body)["error"], route
        named = {"message_id": 1}
        bodies: dict[str, dict[str, Any]] = {"edit": {**named, "content": "x"}, "switch": named}
        for route in ("edit", "regenerate", "resume", "switch", "fork", "undo"):
            post(service, f"nobody/{route}", 404, **bodies.get(route, {}))
        assert names(service) == ["s", "theirs"]
        assert {turn["status"] for turn in session(service)["turns"]} == {"done"}
    require_sound_store(lab)


def test_a_fork_is_a_session_of_its_own(lab: Lab) -> None:
    with lab.serve() as service:
        service.http.post("/sessions", json={"session_id": "s", "temperature": 0.5, "name": "Mine"}).raise_for_status()
        one = said(service, "one")
        said(service, "two")
        forked = post(service, "s/fork", 201, message_id=one["message_id"], session_id="copy/1")
        made_up = post(service, "s/fork", 201)
        assert post(service, "s/fork", 409, session_id="copy/1")["error"]["code"] == "already_there"
        said(service, "three", session_id="copy/1")

        assert (forked["name"], forked["settings"]["temperature"], forked["message_count"]) == ("Mine", 0.5, 2)
        assert made_up["message_count"] == 4
        assert [m["content"] for m in visible(service, "copy/1")] == ["one", "one", "three", "three"]
        assert texts(session(service)) == ["one", "one", "two", "two"]
        assert service.http.delete("/sessions/copy%2F1").status_code == 200
        assert texts(session(service)) == ["one", "one", "two", "two"]
    require_sound_store(lab)


def test_a_removed_session_is_gone_with_its_words(fake: Service) -> None:
    said(fake, "xylophone", session_id="gone")
    assert names(fake, q="xylophone") == ["gone"]

    assert fake.http.delete("/sessions/gone").json() == {"status": "success", "session_id": "gone"}

    assert names(fake, q="xylophone") == []
    assert fake.http.get("/sessions/gone").status_code == 404
    assert fake.http.delete("/sessions/gone").status_code == 404
    assert "gone" not in names(fake, limit=200)


def test_what_would_cut_off_a_running_turn_is_refused_while_it_runs(lab: Lab) -> None:
    gate = lab.folder / "gate"
    lab.fault("small", token_gate_file=str(gate))
    with lab.serve() as service, ThreadPoolExecutor(1) as pool:
        first = said(service, "fast", model="other")
        with streaming(service, "slow") as events:
            next(event for event in events if event[0] == "token")
            for answer in (
                service.http.delete("/sessions/s"),
                service.http.post("/sessions/s/undo"),
                service.http.post("/sessions/s/switch", json={"message_id": first["message_id"]}),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_busy")
            rest = pool.submit(list, events)
            gate.touch()
            assert rest.result(BOUND_S)[-1][0] == "done"
        assert service.http.delete("/sessions/s").status_code == 200


def test_a_key_sees_its_own_sessions_only(make_lab: MakeLab) -> None:
    lab = make_lab("fake", environment=KEYS)
    with lab.serve(key=USE_KEY) as service:
        mine = said(service, "secretword")
        theirs = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert service.http.get("/sessions", headers=theirs).json()["sessions"] == []
        assert service.http.get("/sessions", params={"q": "secretword"}, headers=theirs).json()["sessions"] == []
        assert service.http.get("/export", headers=theirs).text == ""
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/export", None),
            ("PATCH", "", {"name": "x"}),
            ("DELETE", "", None),
            ("POST", "/fork", {}),
            ("POST", "/switch", {"message_id": mine["message_id"]}),
            ("POST", "/undo", {}),
            ("POST", "/regenerate", {}),
            ("POST", "/edit", {"message_id": mine["user_message_id"], "content": "x"}),
            ("POST", "/resume", {}),
        ):
            answer = service.http.request(method, f"/sessions/s{path}", json=body, headers=theirs)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found"), path
        assert service.http.get("/sessions/s").status_code == 200


def test_what_was_cut_from_the_prompt_is_told_and_kept(make_lab: MakeLab) -> None:
    lab = make_lab("fake")
    configure(lab, chat={"max_conversation_tokens": 128})
    with lab.serve() as service:
        answers = [said(service, " ".join(f"word{at}" for at in range(20))) for _ in range(8)]
        cut = answers[-1]["cut"]
        view = session(service)
        shown = prompts(service)[-1]["messages"]

    assert answers[0]["cut"] is None
    assert cut["messages"] > 0
    assert cut["tokens"] > 0
    assert cut["budget_tokens"] == 128
    assert view["turns"][-1]["detail"]["cut"] == cut
    kept = [message for message in view["messages"] if message["id"] >= cut["first_kept"]][:-1]
    assert [message["content"] for message in shown if message["role"] != "system"] == [m["content"] for m in kept]


def test_every_route_is_described_with_its_headers(fake: Service) -> None:
    """What clients are generated from."""
    paths = fake.http.get("/schema/openapi.json").json()["paths"]
    told = {
        (method, path.removeprefix("/sessions/{session_id}")): [
            parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"
        ]
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation.get("description")
    }

    for route in (("post", "/chat"), ("post", "/regenerate"), ("post", "/edit"), ("post", "/resume")):
        assert told[route] == ["Idempotency-Key"]
    for route in (("patch", ""), ("delete", ""), ("post", "/switch"), ("post", "/undo")):
        assert told[route] == ["If-Match"]
    assert {("get", "/sessions"), ("post", "/sessions"), ("get", ""), ("post", "/fork"), ("get", "/export")} <= set(
        told
    )


def test_branches_of_a_real_model_go_from_question_to_training_data(served: Service) -> None:
    """The owner's loop: chat, say it better, answer once more, export."""
    asked: dict[str, Any] = {"session_id": "loop", "max_tokens": 12, "temperature": 0}
    first = said(served, "Name a colour.", **asked)
    said_better = {"message_id": first["user_message_id"], "content": "Name a fruit."}
    # Neither is sampled, which may say nothing, or the same; the shorter one is another answer in any case.
    edited = post(served, "loop/edit", **said_better, max_tokens=12, temperature=0)
    again = post(served, "loop/regenerate", max_tokens=6, temperature=0)
    told = served.http.get("/sessions/loop/export", params={"branches": "all"}).text

    assert all(answer["tokens_generated"] > 0 for answer in (first, edited, again))
    assert [[message["content"] for message in json.loads(line)["messages"]] for line in told.splitlines()] == [
        ["Name a colour.", first["response"]],
        ["Name a fruit.", edited["response"]],
        ["Name a fruit.", again["response"]],
    ]
    served.http.delete("/sessions/loop").raise_for_status()
