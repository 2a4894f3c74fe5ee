"""Who may import whom: the layout is only worth something while it holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NODES = sorted(path.parent.name for path in (ROOT / "deployments").glob("*/deployment.py"))
RAY_FILES = {
    "deployments/runtime/serving.py",
    "serve_app/events/deployment.py",
    "serve_app/graph.py",
    "serve_app/ingress.py",
    "serve_app/main.py",
    "serve_app/ray_metrics.py",
}
ENVIRONMENT_FILES = {"serve_app/launch.py", "deployments/media/worker.py", "deployments/media/decoder.py"}
WITHOUT_TORCH = (
    "deployments/policy/",
    "deployments/media/url_guard.py",
    "deployments/fusion/head.py",
    "deployments/similarity/",
    "deployments/review_gate/",
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions, but not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_deployments_never_import_serve_app() -> None:
    guilty = [name(p) for p in sources("deployments") if any(m.split(".")[0] == "serve_app" for m in imports(p))]
    assert guilty == []


@pytest.mark.parametrize("node", NODES)
def test_a_node_imports_no_other_node(node: str) -> None:
    others = {f"deployments.{other}" for other in NODES if other != node}
    guilty = [
        (name(path), module)
        for path in sources(f"deployments/{node}")
        for module in imports(path)
        if ".".join(module.split(".")[:2]) in others
    ]
    assert guilty == []


def test_ray_is_imported_only_where_nodes_are_served() -> None:
    importing = {
        name(p) for p in sources("deployments", "serve_app") if any(m.split(".")[0] == "ray" for m in imports(p))
    }
    wrappers = {f"deployments/{node}/deployment.py" for node in NODES}
    assert importing == RAY_FILES | wrappers


def test_thresholds_url_checks_and_fusion_arithmetic_need_no_torch() -> None:
    guilty = [
        name(path)
        for path in sources("deployments")
        if name(path).startswith(WITHOUT_TORCH) and any(m.split(".")[0] == "torch" for m in imports(path))
    ]
    assert guilty == []


def test_nothing_reads_settings_from_the_environment() -> None:
    reading = {
        name(path)
        for path in sources("deployments", "serve_app")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    }
    assert reading <= ENVIRONMENT_FILES
