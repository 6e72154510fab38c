"""Whether a model serves what a route needs."""

from __future__ import annotations

from app.errors import BadRequestError
from app.fleet.spec import ModelSpec
from app.manifest.schema import Kind


def require_kind(spec: ModelSpec, kind: Kind) -> None:
    """Raises BadRequestError, with the line to write, unless the model serves ``kind``."""
    kinds = spec.run.kinds
    if kind not in kinds and "rerank" in {kind, *kinds}:
        raise BadRequestError(
            f"{spec.key} serves {', '.join(sorted(kinds))}, not {kind}; name another model: one that ranks has "
            "`kind: [rerank]` in airlab.yaml, and serves nothing else",
            param="model",
        )
    if kind not in kinds:
        line = f"kind: [{', '.join(sorted({*kinds, kind}))}]"
        raise BadRequestError(
            f"{spec.key} does not serve {kind}; to make it, set `{line}` for it in airlab.yaml", param="model"
        )
