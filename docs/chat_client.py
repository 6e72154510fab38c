"""A minimal AirLab client: keeps its own list of messages and posts all of it each time.

    python docs/chat_client.py "What is in the workspace?"

AirLab finds what it has stored already, and keeps the conversation as one branch; nothing is stored twice.
"""

import json
import os
import sys
import urllib.error
import urllib.request

URL = os.environ.get("AIRLAB_URL", "http://127.0.0.1:8080")


class Conversation:
    """What was said, as this client holds it."""

    def __init__(self, session_id: str, **settings: object) -> None:
        """``settings`` go with every request: ``enable_tools=True``, ``temperature=0``, ``model="..."``."""
        self.session_id = session_id
        self.settings = settings
        self.messages: list[dict[str, str]] = []

    def say(self, text: str, *, timeout_s: float = 600, **settings: object) -> str:
        """Send one more message; the answer. On an error the message stays, and goes out again with the next one."""
        if not (self.messages and self.messages[-1] == {"role": "user", "content": text}):
            self.messages.append({"role": "user", "content": text})
        body = {"session_id": self.session_id, "messages": self.messages, **self.settings, **settings}
        answer = str(post("/chat", body, timeout_s=timeout_s)["response"])
        self.messages.append({"role": "assistant", "content": answer})
        return answer


def post(path: str, body: dict[str, object], *, timeout_s: float = 600) -> dict[str, object]:
    """POST JSON, get JSON; AirLab's own words as the error."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("AIRLAB_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: dict[str, object] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(json.load(error)["error"]["message"]) from None


if __name__ == "__main__":
    print(Conversation("docs", enable_tools=True, max_tokens=128).say(" ".join(sys.argv[1:]) or "Hello."))
