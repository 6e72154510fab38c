"""The instances that there are, and which of them serve: by number, and by model. Changed by the fleet alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from app.fleet.instance import Instance
from app.fleet.states import State, Why


class Roster(Mapping[int, Instance]):
    """Instances by number, oldest first."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.ready: dict[str, Instance] = {}
        """The one of each model that takes work, where there is one. For others to read."""
        self._by_number: dict[int, Instance] = {}

    def __getitem__(self, number: int) -> Instance:
        """The instance of this number."""
        return self._by_number[number]

    def __iter__(self) -> Iterator[int]:
        """The numbers, oldest first."""
        return iter(self._by_number)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_number)

    def of(self, key: str) -> list[Instance]:
        """Those of one model, oldest first."""
        return [instance for instance in self._by_number.values() if instance.spec.key == key]

    def add(self, instance: Instance) -> None:
        """It is being started."""
        self._by_number[instance.id] = instance

    def remove(self, instance: Instance) -> None:
        """It is verified gone."""
        del self._by_number[instance.id]

    def move(self, instance: Instance, state: State, why: Why | None) -> None:
        """It is in this state from now on; ``why`` it leaves, where it does."""
        instance.state, instance.why, instance.since_s = state, why, time.monotonic()
        key = instance.spec.key
        if state is State.READY:
            self.ready[key] = instance
        elif self.ready.get(key) is instance:
            del self.ready[key]
