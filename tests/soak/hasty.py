"""AirLab whose fleet has little patience, for a soak, which has not a minute for each hang."""

from __future__ import annotations

from app.__main__ import main
from app.fleet import fleet
from app.fleet.states import Limits

SHORT = Limits(
    load_stall_s=1.5,
    hung_s=1.0,
    remote_silent_s=1.0,
    stop_grace_s=0.5,
    stuck_look_s=0.2,
    quiet_s=0.1,
    fairness_s=1.0,
    cooling_s=(0.05, 0.1, 0.2, 0.4, 0.8),
    budget_window_s=5.0,
    failed_rest_s=1.0,
)

if __name__ == "__main__":
    vars(fleet)["Limits"] = lambda: SHORT
    main()
