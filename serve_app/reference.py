"""docs/configuration.md, written from the settings: `python -m serve_app.reference > docs/configuration.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from serve_app.config import AppConfig

HEAD = """# Configuration

Every setting stands under `args` of the application in a Serve config file (`cluster/serve/*.yaml`). Unknown names
and values out of range are refused before anything starts. This page is written from the code:
`python -m serve_app.reference > docs/configuration.md`.
"""


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """(heading, table rows) of one table of settings, then of those inside it."""
    rows, inner = [], []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((path, kind))
            rows.append(f"| `{path}` | see below | {field.description} |")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            rows.append(f"| `{path}` | {_shown(default)} | {field.description} |")
    yield prefix.rstrip(".") or "Application", rows
    for path, kind in inner:
        yield from sections(kind, f"{path}.")


def render() -> str:
    parts = [HEAD]
    for heading, rows in sections(AppConfig):
        parts.append(f"## {heading}\n\n| setting | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _shown(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Path):
        return f"`{default.name}` (shipped)" if default.is_absolute() else f"`{default}`"
    if default is None or default in ("", ()):
        return "none"
    return f"`{json.dumps(default, default=str, ensure_ascii=False)}`"


if __name__ == "__main__":
    print(render(), end="")
