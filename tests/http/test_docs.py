"""docs/api.md names every route with every status, every error code, and every setting with its default."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI

from deployments.runtime.errors import ParakhError
from serve_app.http.errors import _HTTP_CODES
from serve_app.http.moderation import OPENAI_NAMES
from serve_app.http.settings import HttpSettings, JobSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0].strip(): part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}


def rows(section: str) -> set[str]:
    return set(re.findall(r"^\| (\d{3}) \|", SECTIONS[section], flags=re.MULTILINE))


def test_every_route_has_a_section_with_its_statuses_and_no_section_is_stale(app: FastAPI) -> None:
    routes = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    assert {section for section in SECTIONS if "/" in section} == set(routes)
    for route, statuses in routes.items():
        assert rows(route) == statuses, route


# Training, start, backups, the way out of events: what no client meets.
OFFLINE = (
    "deployments.review_gate",
    "deployments.fusion",
    "deployments.policy",
    "deployments.similarity.embedded.backup_places",
    "serve_app.embedding_table",
    "serve_app.events",
)


def import_every_module_with_an_error_code() -> None:
    """A class counts from its import on: without this the codes would depend on the tests that ran before."""
    for package in ("serve_app", "deployments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^    code = ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def codes_of(kind: type[ParakhError]) -> set[tuple[int, str]]:
    ours = [child for child in kind.__subclasses__() if child.__module__.startswith(("serve_app", "deployments"))]
    deeper = [codes_of(child) for child in ours if not child.__module__.startswith(OFFLINE)]
    return {(kind.status, kind.code)}.union(*deeper)


def test_every_error_code_stands_in_the_table_and_no_other() -> None:
    import_every_module_with_an_error_code()
    codes = {pair for pair in codes_of(ParakhError) | set(_HTTP_CODES.items()) if pair[1] != "conflict"}  # a base class
    found = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", SECTIONS["Errors"], flags=re.MULTILINE)
    assert {(int(status), code) for status, code in found} == codes


@pytest.mark.parametrize("name", [*HttpSettings.model_fields, *(f"jobs.{name}" for name in JobSettings.model_fields)])
def test_every_setting_stands_with_its_default(name: str) -> None:
    if name == "jobs":
        return
    field = JobSettings.model_fields[name[5:]] if name.startswith("jobs.") else HttpSettings.model_fields[name]
    (said,) = re.findall(rf"^\| `{re.escape(name)}` \| `?([^|`]+?)`? \|", SECTIONS["Limits"], flags=re.MULTILINE)
    number, _, unit = said.replace("\u00a0", " ").rpartition(" ") if "MiB" in said else (said, "", "")
    shown = number.replace(" ", "")
    default = field.default / 2**20 if unit else field.default
    assert shown == ("none" if default is None else default if isinstance(default, str) else f"{default:.10g}")


def test_every_other_name_of_a_category_is_explained() -> None:
    for theirs, ours in OPENAI_NAMES.items():
        assert f"| `{ours}` | also as `{theirs}` |" in TEXT
