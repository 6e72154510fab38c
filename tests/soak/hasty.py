"""AirLab with little patience, for a soak, which has not a minute for each hang, and for tests of what takes one."""

from __future__ import annotations

from app.__main__ import main
from app.fleet import fleet
from app.fleet.states import Limits
from app.service import Service

SHORT = Limits(
    load_stall_s=1.5,
    hung_s=1.0,
    silent_s=10.0,
    remote_silent_s=1.0,
    stop_grace_s=0.5,
    stuck_look_s=0.2,
    quiet_s=0.1,
    fairness_s=1.0,
    cooling_s=(0.05, 0.1, 0.2, 0.4, 0.8),
    budget_window_s=5.0,
    failed_rest_s=1.0,
)

DRAIN_S = 1.0

if __name__ == "__main__":
    (Service.stop.__kwdefaults__ or {})["drain_s"] = DRAIN_S
    vars(fleet)["Limits"] = lambda: SHORT
    main()
