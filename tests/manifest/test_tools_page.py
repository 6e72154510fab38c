"""The manifests that docs/tools.md shows are right as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.live.guards import policy_for
from app.manifest.load import parse_manifest

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
[FUNCTION] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_page_has_an_example_of_every_kind() -> None:
    assert set(re.findall(r"kind: (\w+)", "".join(EXAMPLES))) == {"http", "command", "python", "mcp"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_can_come_into_force(example: str, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "orders.py").write_text(FUNCTION)
    text = f"version: 1\ndefault_model: a\nmodels: {{a: {{filename: a.gguf}}}}\n{example}"
    loaded = parse_manifest(text.encode(), name="airlab.yaml")

    policy = policy_for(loaded, tmp_path, tmp_path / "state")

    offered = {name for name, section in loaded.manifest.tools.declared.items() if section.kind != "mcp"}
    assert offered <= set(policy.tools)
