"""A chat's stream as blocks, one after another: thoughts, text, calls. Pure; knows no API that tells of them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Literal

from app.chat.stream import Fragment, Piece
from app.errors import UpstreamError

Happening = Literal["opened", "grew", "closed"]


@dataclass(slots=True)
class Block:
    """One block of an answer; of a call the text is its arguments."""

    kind: Literal["thought", "text", "call"]
    index: int
    """Its place in the answer, from 0."""
    call_id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it, as far as it has come; of a call without arguments an empty object."""
        return "".join(self.parts) or ("{}" if self.kind == "call" else "")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a block; ``text`` is what it grew by."""

    happening: Happening
    block: Block
    text: str = ""


class Blocks:
    """Gathers blocks; only the last one grows."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self.all: list[Block] = []
        self._open: Block | None = None
        self._call_index = -1
        """Of the upstream's calls the one that came last."""

    @property
    def calls(self) -> bool:
        """Whether tools are called."""
        return any(block.kind == "call" for block in self.all)

    def take(self, piece: Piece) -> list[Step]:
        """What a piece of the stream does. Raises UpstreamError where a call is none that could be told."""
        steps: list[Step] = []
        if piece.reasoning:
            self._grow("thought", piece.reasoning, steps)
        if piece.text:
            self._grow("text", piece.text, steps)
        for fragment in piece.calls:
            self._grow_call(fragment, steps)
        return steps

    def end(self) -> list[Step]:
        """What the end of the stream does."""
        closed, self._open = self._open, None
        return [] if closed is None else [Step("closed", closed)]

    def _grow(self, kind: Literal["thought", "text"], text: str, steps: list[Step]) -> None:
        block = self._open
        if block is None or block.kind != kind:
            block = self._begin(Block(kind, len(self.all)), steps)
        block.parts.append(text)
        steps.append(Step("grew", block, text))

    def _grow_call(self, fragment: Fragment, steps: list[Step]) -> None:
        block, function = self._open, fragment.function
        if fragment.index != self._call_index or block is None or block.kind != "call":
            # The APIs tell block by block: what comes late for one that is told cannot be told any more.
            if fragment.index <= self._call_index or not function.name:
                raise UpstreamError(f"a piece of tool call {fragment.index} came without a call that it belongs to")
            self._call_index = fragment.index
            call_id = fragment.id or f"call_{uuid.uuid4().hex}"
            block = self._begin(Block("call", len(self.all), call_id, function.name), steps)
        if function.arguments:
            block.parts.append(function.arguments)
            steps.append(Step("grew", block, function.arguments))

    def _begin(self, block: Block, steps: list[Step]) -> Block:
        steps += [*self.end(), Step("opened", block)]
        self.all.append(block)
        self._open = block
        return block
