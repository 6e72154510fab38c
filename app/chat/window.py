"""What of its conversation a turn's model is shown: counted as the engine counts, cut to the budget, and said so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.chat import events, toolmode
from app.chat.history import Counted, cut
from app.chat.model import Call, Models
from app.chat.results import with_short_results
from app.messages import Message
from app.store.records import NOTHING_EARLIER, Earlier, LastCut, OpenTurn, TokenCount


@dataclass(slots=True)
class _Item:
    """A message of the branch, as it is stored; what was counted has tokens."""

    id: int
    message: Message
    count: TokenCount | None


class Window:
    """The end of one conversation while a turn of it runs."""

    def __init__(self, models: Models, tell: Callable[[events.TurnEvent], None], *, most_tokens: int) -> None:
        """Nothing is read yet; ``tell`` hears what the model is not shown, whenever that changes."""
        self.counts: dict[int, TokenCount] = {}
        """What was counted here, by message: stored with the answer, and not counted again."""
        self.cut: events.HistoryCut | None = None
        """What the model was not shown, as was told last."""
        self._models, self._tell, self._most_tokens = models, tell, most_tokens
        self._items: list[_Item] = []
        self._earlier = NOTHING_EARLIER
        self._last_cut: LastCut | None = None

    def read(self, turn: OpenTurn) -> None:
        """Begin with what a turn was opened with."""
        self._items = [_Item(stored.id, stored.message, stored.count) for stored in turn.path]
        self._earlier, self._last_cut = turn.earlier, turn.last_cut

    def add(self, ids: Iterable[int], messages: Iterable[Message]) -> None:
        """What was said since."""
        self._items += [_Item(id_, message, None) for id_, message in zip(ids, messages, strict=True)]

    async def fitting(self, call: Call) -> list[Message]:
        """The newest messages that fit this call.

        Raises:
            BadRequestError: The last turn alone does not.
        """
        upstream, template, counted_by = call.lease.upstream, call.template, call.lease.counted_by

        async def count(message: Message) -> int:
            return await self._models.count(upstream, counted_by, message)

        taken = template.base_tokens + await count(Message("system", call.system_text(deciding=call.decides_first)))
        if call.tools and call.mode == "native":
            taken += await count(Message("system", str(toolmode.native_tools(call.tools))))
        room = template.context_tokens - min(call.sampling.max_tokens, template.context_tokens // 2) - taken
        budget_tokens = min(self._most_tokens, room)
        start, earlier = self._start(budget_tokens)
        branch = []
        for item in self._items[start:]:
            if item.count is None or item.count.counted_by != counted_by:
                item.count = self.counts[item.id] = TokenCount(await count(item.message), counted_by)
            branch.append(Counted(item.message, item.count.tokens))
        shown = await with_short_results(branch, budget_tokens=budget_tokens, count=count)
        left_out = cut(shown, budget_tokens=budget_tokens)
        shortened = sum(
            whole.message is not part.message for whole, part in zip(branch[left_out:], shown[left_out:], strict=True)
        )
        told = events.HistoryCut(
            messages=earlier.messages + left_out,
            tokens=earlier.tokens + sum(item.tokens for item in branch[:left_out]),
            shortened=shortened,
            budget_tokens=budget_tokens,
            first_kept=self._items[start + left_out].id,
        )
        if (told.messages or told.shortened) and told != self.cut:
            self.cut = told
            self._tell(told)
        return [item.message for item in shown[left_out:]]

    def _start(self, budget_tokens: int) -> tuple[int, Earlier]:
        """Where the cut begins, and what stands before that.

        It depends on the whole conversation, whose beginning was not read: so it goes on from the last one. A cut that
        began wherever reading did would move with every turn, and the engine's prefix cache would be of no use.
        """
        last = self._last_cut
        # With a larger budget than that one had, there is room for what it left out.
        if last is None or budget_tokens > last.budget_tokens:
            return 0, self._earlier
        start = next(at for at, item in enumerate(self._items) if item.id == last.first_kept)
        return start, Earlier(last.messages, last.tokens)
