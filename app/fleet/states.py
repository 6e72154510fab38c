"""The words of the fleet: a model's states, the facts that ``decide`` looks at, the actions it answers with.

Frozen values only. The table of states, with what each leaves for, is in docs/states.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.engines.base import RunSpec, WeightsId
from app.errors import AirLabError
from app.fleet.fit import Fitted
from app.fleet.memory import Booking, Budget, Cramped, Reading
from app.fleet.spec import ModelSpec
from app.weights.gguf import GgufFacts


class State(StrEnum):
    """A model's state: one word in code, log, API and page."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STUCK = "stuck"
    COOLING = "cooling"
    FAILED = "failed"


ON_ITS_WAY_OUT = frozenset({State.DRAINING, State.STOPPING, State.STUCK})
"""States of an instance that takes no more work."""


class Why(StrEnum):
    """Why an instance has to go."""

    CHANGED = "its settings or its file changed"
    REMOVED = "it was removed from the manifest"
    UNLOADED = "it was unloaded"
    IDLE = "it was idle"
    EVICTED = "another model needs its place"
    CRAMPED = "another model ran out of memory when it was started"
    SHUTDOWN = "the service is shutting down"
    FAULT = "it failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """The fleet's numbers; tests shorten them."""

    load_stall_s: float = 120.0
    """A load in which nothing moves for this long is given up."""
    load_total_s: float = 1800.0
    """A load that takes longer is given up, and not tried again at once: it moved, and led nowhere."""
    stalled_loads: int = 2
    """So many loads in a row in which nothing moved are too many: each held a place for minutes."""
    hung_s: float = 60.0
    """An engine that is waited for so long, and neither sends a piece of an answer nor uses the processor, is hung."""
    silent_s: float = 1800.0
    """One that sends none while it is waited for so long is hung, however busy its processor."""
    remote_silent_s: float = 600.0
    """A server elsewhere that is in the middle of an answer and sends none of it for this long has hung. Models that
    think without showing it are silent for minutes; what comes before, a load and a long prompt, takes ``silent_s``."""
    stop_grace_s: float = 5.0
    stuck_look_s: float = 5.0
    quiet_s: float = 2.0
    """A model used this recently is not evicted."""
    fairness_s: float = 10.0
    """After this wait, a request for another model stops new work on the loaded one."""
    cooling_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    budget_window_s: float = 600.0
    """Failures older than this are forgotten."""
    failed_rest_s: float = 300.0
    """A failure that can pass is tried again by a request after this long."""
    cramped_s: float = 1800.0
    """A start that ran out of memory makes the next ones smaller for this long; see ``records.still_cramped``."""
    cooling_worth_waiting_s: float = 2.0
    """A request waits out a cool-down that ends this soon; for a longer one it is told to come back."""
    memory_look_s: float = 0.25
    """Memory that has yet to come back is looked at this often."""
    queue: int = 32
    """Requests that may wait for one model."""


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """One instance, as it is now."""

    id: int
    key: str
    run: RunSpec
    state: State
    leases: int
    last_used_s: float
    why: Why | None
    """Why it is on its way out, where it is."""
    slots: int = 1
    """As it was started: the run may have left that open."""
    load_s: float | None = None
    """How long it took to load, once it has."""
    threads: int = 0
    """Processor threads that it keeps busy, at most."""
    booking: Booking | None = None
    """Its memory; None where it was started without a look at memory."""
    since_s: float = 0.0
    """When it came into its state."""
    keep_alive_s: float | None = None
    """What the last request that spoke of it set in place of the manifest's idle_timeout; infinite to keep it."""


@dataclass(frozen=True, slots=True)
class WaiterFacts:
    """Somebody who waits for a model."""

    id: int
    key: str
    since_s: float
    deadline_s: float
    takes_slot: bool
    """False for one who only wants the model loaded."""
    evicts: bool = True
    """False for one who is to take nothing away from anybody: refused where that would be needed."""


@dataclass(frozen=True, slots=True)
class MemoryState:
    """What is known of the host's memory."""

    reading: Reading | None
    """None where it was not read yet."""
    is_fresh: bool
    """Whether a start may rely on the reading: nothing has come or gone since."""
    is_being_read: bool
    due_until_s: float = float("-inf")
    """Until then, memory of an engine that is gone may still come back: drivers take their time."""
    budget: Budget = field(default_factory=Budget)
    threads: int | None = None
    """Processor threads for all engines together; None for no bound."""
    ratios: Mapping[str, float] = field(default_factory=dict)
    """What the last run of a model took, against what had been estimated, by key."""
    facts: Mapping[WeightsId, GgufFacts] = field(default_factory=dict)
    """Headers that were read for this, where a spec has none yet."""
    base_bytes: int = 0
    """What the engine adds to what llama-server itself takes."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a model does not come up."""

    at_s: float
    message: str
    can_pass: bool
    """False where only an edit or an admin can help."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a key whether an instance exists or not."""

    failures_s: tuple[float, ...] = ()
    """Times of the recent faults."""
    cooling_until_s: float | None = None
    failure: Failure | None = None
    last_fault: str = ""
    stalled_loads: int = 0
    """Its last loads, in a row, in which nothing moved."""
    cramped: Cramped | None = None
    """What the last start ran out of, where it did; ``records.still_cramped`` says for how long that counts."""


@dataclass(frozen=True, slots=True)
class FleetState:
    """All that a decision may look at."""

    models: Mapping[str, ModelSpec]
    instances: tuple[InstanceFacts, ...]
    waiters: tuple[WaiterFacts, ...]
    """In order of arrival."""
    records: Mapping[str, Record]
    desired: frozenset[str]
    """Keys to be kept loaded without anybody waiting: preloaded, or loaded by hand, and not evicted since."""
    max_loaded: int
    shutting_down: bool
    memory: MemoryState | None = None
    """None where memory is not looked at: then places alone count."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start an instance of this key, so that it fits; with its run's own numbers where memory is not looked at."""

    key: str
    fitted: Fitted | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Read the host's memory, and decide again."""


@dataclass(frozen=True, slots=True)
class Forgo:
    """Do not load this model without being asked again: it cannot fit."""

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let this instance serve what it has and take no more."""

    instance: int
    why: Why


@dataclass(frozen=True, slots=True)
class Undrain:
    """This instance is wanted again as it is."""

    instance: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this instance now."""

    instance: int
    why: Why


@dataclass(frozen=True, slots=True)
class Grant:
    """Give this waiter a slot of this instance, or the news that it is loaded."""

    waiter: int
    instance: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell this waiter no."""

    waiter: int
    error: AirLabError


@dataclass(frozen=True, slots=True)
class Look:
    """Decide again at this time at the latest."""

    at_s: float


Action = Start | Measure | Forgo | Drain | Undrain | Stop | Grant | Refuse | Look
