"""Decides what the fleet does next: what to start, drain, stop, grant, refuse, and when to look again.

Pure: facts in, actions out; no clock, no process, no socket. ``reconcile.py`` carries the actions out and asks again
until there are none. Waiters of one model are served in order of arrival, and models in the order of those who waited
for them first: A B C A B C runs as A A B B C C. One who waits for a place, or for memory, is overtaken only by those
who came before their patience ended (``Limits.fairness_s``). Those whose model stalled at its last load count as come
when it did: who held the place for nothing goes to the end of the line. How things stand after the actions so far
is asked of ``board.py``, whether a model fits of ``admit.py``, who goes for it of ``evict.py``, why one is not even
tried of ``refusals.py``.
"""

from __future__ import annotations

from collections.abc import Collection

from app.errors import AirLabError, DoesNotFitError, DrainingError, ModelNotFoundError, WaitTimeoutError
from app.fleet.board import Board
from app.fleet.evict import fewest, idle_timeout_s, in_order
from app.fleet.fit import Fitted, Shortfall
from app.fleet.records import still_cramped
from app.fleet.refusals import cannot_start, nobody_can_go, not_beside, still_down
from app.fleet.spec import ModelSpec
from app.fleet.states import Action, FleetState, Forgo, InstanceFacts, Limits, Start, State, Stop, WaiterFacts, Why

_MAY_COME_BACK = frozenset({Why.CHANGED, Why.REMOVED, Why.UNLOADED})


def decide(fleet: FleetState, limits: Limits, *, now_s: float) -> list[Action]:
    """The actions that this state of the fleet asks for now; none when all is as it should be but for waiting."""
    board = Board(fleet, limits, now_s=now_s)
    for instance in fleet.instances:
        _settle(board, instance)
    _shed(board)
    for waiter in sorted(fleet.waiters, key=lambda waiter: _came_s(board, waiter)):
        _serve(board, waiter)
    _start_desired(board)
    return board.actions


# What runs.


def _settle(board: Board, instance: InstanceFacts) -> None:
    """What an instance should do whoever waits: leave when it is not wanted as it is, come back when it is."""
    why = _unwanted(board, instance)
    if instance.state is State.DRAINING:
        if why is None and instance.why in _MAY_COME_BACK and _is_wanted_again(board, instance):
            board.call_back(instance)
        elif instance.leases == 0:
            board.actions.append(Stop(instance.id, instance.why or Why.CHANGED))
    elif why is not None and instance.state in {State.STARTING, State.READY}:
        board.send_away(instance, why)
    elif instance.state is State.READY:
        _settle_idle(board, instance)


def _unwanted(board: Board, instance: InstanceFacts) -> Why | None:
    if board.fleet.shutting_down:
        return Why.SHUTDOWN
    spec = board.fleet.models.get(instance.key)
    if spec is None:
        return Why.REMOVED
    return None if spec.run == instance.run else Why.CHANGED


def _is_wanted_again(board: Board, instance: InstanceFacts) -> bool:
    current = board.current(instance.key)
    if current is not None and current.run == instance.run:
        return False
    # An edit that was taken back needs nobody waiting; an unloaded model comes back for a request only.
    return instance.why is not Why.UNLOADED or any(w.key == instance.key for w in board.fleet.waiters)


def _settle_idle(board: Board, instance: InstanceFacts) -> None:
    timeout_s = idle_timeout_s(board.fleet.models[instance.key], instance.keep_alive_s)
    if timeout_s is None or instance.leases or any(w.key == instance.key for w in board.fleet.waiters):
        return
    if instance.last_used_s + timeout_s <= board.now_s:
        board.send_away(instance, Why.IDLE)
    else:
        board.look(instance.last_used_s + timeout_s)


def _shed(board: Board) -> None:
    """Send away what is loaded beyond the limit, or beside a rival, after an edit; the idle ones first."""
    pinned = {key for key, spec in board.fleet.models.items() if spec.section.pin}
    staying = sorted(board.staying, key=lambda i: (i.key in pinned, board.is_busy(i), i.last_used_s))
    kept: set[str] = set()
    for instance in reversed(staying):
        if len(kept) >= board.fleet.max_loaded or board.rival_keys(instance.key) & kept:
            board.send_away(instance, Why.EVICTED)
        else:
            kept.add(instance.key)


# Who waits.


def _came_s(board: Board, waiter: WaiterFacts) -> float:
    """When it counts as come: who waited for a load that stalled is behind those who waited for its place."""
    record = board.record(waiter.key)
    return max(waiter.since_s, record.failures_s[-1]) if record.stalled_loads else waiter.since_s


def _serve(board: Board, waiter: WaiterFacts) -> None:
    """Grant, refuse, or make room and let wait."""
    error = _refusal(board, waiter)
    if error is not None:
        board.refuse(waiter, error)
        return
    board.look(waiter.deadline_s)
    instance = board.current(waiter.key)
    if instance is None:
        _bring_up(board, waiter)
    elif instance.state is State.READY and board.has_room(instance, waiter):
        board.grant(waiter, instance)


def _refusal(board: Board, waiter: WaiterFacts) -> AirLabError | None:
    key, spec = waiter.key, board.fleet.models.get(waiter.key)
    if board.fleet.shutting_down:
        return DrainingError("AirLab is shutting down and takes no more requests", retry_after_s=5)
    if spec is None:
        return ModelNotFoundError(f"the model {key} was removed from the manifest")
    if waiter.deadline_s <= board.now_s:
        return WaitTimeoutError(f"{key} was not free in time ({waiter.deadline_s - waiter.since_s:.0f} s)")
    if board.current(key) is not None:
        return None
    return cannot_start(spec) or still_down(key, board.record(key), board.limits, now_s=board.now_s)


def _bring_up(board: Board, waiter: WaiterFacts) -> None:
    """Start the model that this waiter wants, or see that it can be; refuse where it never will."""
    key = waiter.key
    if key in board.handled or not board.faults_are_booked(key) or not board.has_rested(key):
        return
    board.handled.add(key)
    if board.follows_a_rival(key) or board.reads_memory():
        return
    spec = board.fleet.models[key]
    if board.waits_for_memory:
        _start_beside_the_promised(board, spec)
        return
    alone = board.admission.fit_alone(spec)
    if isinstance(alone, Shortfall):
        if not board.memory_is_due():
            board.refuse(waiter, DoesNotFitError(alone.message))
        return
    fitted = board.fit(spec)
    if waiter.evicts and _makes_room_after_all(board, key, fitted):
        return
    rivals = board.rivals(key)
    if board.free_places > 0 and not isinstance(fitted, Shortfall) and not rivals:
        board.start(key, fitted)
        return
    board.waits_for_memory = isinstance(fitted, Shortfall)
    going = board.going
    if board.free_places + board.coming_places > 0 and rivals <= going and board.admission.fits(spec, going):
        board.keep_a_place()
        board.promise(spec, going)
    elif waiter.evicts:
        _evict_for(board, waiter, spec)
    else:
        in_the_way = sorted({i.key for i in board.fleet.instances if i.id in rivals})
        board.refuse(waiter, not_beside(key, in_the_way, fitted if isinstance(fitted, Shortfall) else None))


def _makes_room_after_all(board: Board, key: str, fitted: Fitted | Shortfall | None) -> bool:
    """Whether the start after one that ran out of memory waits for an idle model to go, as it cannot be smaller.

    One that was there beside it is enough: then there is more than there was.
    """
    room = fitted.room if isinstance(fitted, Fitted) else {}
    cramped = still_cramped(board.record(key), room, board.limits, now_s=board.now_s)
    if cramped is None or (isinstance(fitted, Fitted) and fitted.shrunk):
        return False
    others = [i for i in board.fleet.instances if i.key != key]
    if len(others) < cramped.others or not others:
        return False
    going = board.going
    goes = any(i.id in going and not board.is_busy(i) for i in others)
    idle = in_order([i for i in others if board.is_idle(i)], board.fleet.models, now_s=board.now_s)
    if idle and not goes:
        board.send_away(idle[0], Why.CRAMPED)
    # What comes back is for this one.
    board.waits_for_memory = goes or bool(idle)
    return board.waits_for_memory


def _evict_for(board: Board, waiter: WaiterFacts, spec: ModelSpec) -> None:
    """Send idle models away that were not used for longest; busy ones only when this waiter waited long."""
    ready, going, rivals = board.ready, board.going, board.rivals(spec.key)
    idle = [i for i in ready if board.is_idle(i)]
    places = board.free_places + board.coming_places

    def enough(gone: Collection[int]) -> bool:
        rests = going | set(gone)
        return places + len(gone) > 0 and rivals <= rests and board.admission.fits(spec, rests)

    def ordered(candidates: list[InstanceFacts]) -> list[InstanceFacts]:
        return in_order(candidates, board.fleet.models, now_s=board.now_s)

    patience_ends_s = _came_s(board, waiter) + board.limits.fairness_s
    idle_victims = fewest(ordered(idle), enough)
    victims = idle_victims or fewest([*ordered(idle), *ordered([i for i in ready if i not in idle])], enough)
    if victims is None:
        _refuse_if_nobody_can_go(board, waiter)
        return
    board.promise(spec, going | {victim.id for victim in victims})
    quiet_s = max(i.last_used_s for i in victims) + board.limits.quiet_s
    if board.now_s >= patience_ends_s and any(board.has_group(i, before_s=patience_ends_s) for i in victims):
        return  # they came in time to be served together; each grant is followed by another decision
    if board.now_s >= patience_ends_s or (idle_victims and board.now_s >= quiet_s):
        for victim in victims:
            board.send_away(victim, Why.EVICTED)
        board.keep_a_place()
    else:
        board.look(min(quiet_s, patience_ends_s) if idle_victims else patience_ends_s)


def _refuse_if_nobody_can_go(board: Board, waiter: WaiterFacts) -> None:
    """What is stuck or pinned makes no room, however long one waits; what still loads does, once it is idle."""
    instances, rivals = board.fleet.instances, board.rivals(waiter.key)
    in_the_way = [i for i in instances if i.id in rivals] or instances
    stuck = [i.key for i in in_the_way if i.state is State.STUCK]
    pinned = [i.key for i in board.ready if i in in_the_way and board.fleet.models[i.key].section.pin]
    starts = any(isinstance(action, Start) for action in board.actions)
    all_stay = len(stuck + pinned) == len(instances) and not starts
    if stuck + pinned and (rivals or all_stay):
        board.refuse(waiter, nobody_can_go(waiter.key, stuck, pinned, is_rival=bool(rivals)))


# What nobody waits for, or may overtake.


def _start_desired(board: Board) -> None:
    """Start what should be loaded without anybody waiting, where that evicts nothing."""
    for key in sorted(board.fleet.desired - board.handled):
        spec = board.fleet.models.get(key)
        if board.fleet.shutting_down or spec is None or cannot_start(spec) or board.record(key).failure is not None:
            continue
        has_place = board.free_places > 0 and not board.rivals(key) and not board.follows_a_rival(key)
        if board.current(key) is None and board.faults_are_booked(key) and board.has_rested(key) and has_place:
            _start_if_it_fits(board, spec)


def _start_if_it_fits(board: Board, spec: ModelSpec) -> None:
    """A wish: it takes nothing away from anybody, and waits for room that may come."""
    if board.reads_memory():
        return
    if board.waits_for_memory:
        _start_beside_the_promised(board, spec)
        return
    fitted = board.fit(spec)
    if not isinstance(fitted, Shortfall):
        board.start(spec.key, fitted)
    elif isinstance(alone := board.admission.fit_alone(spec), Shortfall) and not board.memory_is_due():
        board.actions.append(Forgo(spec.key, alone.message))


def _start_beside_the_promised(board: Board, spec: ModelSpec) -> None:
    """Start it although an earlier one waits for memory, where that one loses nothing by it.

    That one may wait for minutes, until a busy model has finished. Whoever goes for it leaves it a place, too.
    """
    if board.free_places <= 0 or board.rivals(spec.key):
        return
    fitted = board.fit_beside_the_promised(spec)
    if fitted is not None:
        board.start(spec.key, fitted)
