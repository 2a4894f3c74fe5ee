"""YAML as plain data: one document of mappings, lists and scalars, nothing that surprises.

Refused, with line numbers: explicit tags (`!!python/...`), anchors and aliases (a small file can unfold into
gigabytes), duplicate keys (YAML 1.1 lets the last one win), several documents, deep nesting, files above `MAX_BYTES`.
Keys stay strings: YAML 1.1 would read the key `no` (Norwegian) as false.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


class StrictYamlError(ValueError):
    """What is wrong and in which line, without the file's name."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise StrictYamlError(f"{_line(key_node)}: a key must be a plain word")
            if key_node.value in mapping:
                raise StrictYamlError(f"{_line(key_node)}: duplicate key {key_node.value!r}")
            mapping[key_node.value] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """YAML reads 2026-13-45 as a date, and Python refuses it with a bare ValueError."""
        try:
            return super().construct_object(node, deep)
        except StrictYamlError:
            raise
        except (ValueError, OverflowError):
            raise StrictYamlError(
                f"{_line(node)}: {node.value!r} is no date or number; quote it if it is text"
            ) from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _line(node: yaml.Node | yaml.Event) -> str:
    return f"line {node.start_mark.line + 1}" if node.start_mark else "somewhere"


def _refuse_surprises(text: str) -> None:
    documents = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise StrictYamlError(f"{_line(event)}: is nested too deeply")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise StrictYamlError(f"{_line(event)}: anchors and aliases are not allowed")
        if tag := getattr(event, "tag", None):
            raise StrictYamlError(f"{_line(event)}: the tag {tag!r} is not allowed")
    if documents > 1:
        raise StrictYamlError("holds more than one document")


def read_strict_yaml(path: Path) -> object:
    """The file's one document. Raises StrictYamlError; OSError where the file cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StrictYamlError(f"is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
        _refuse_surprises(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader with fewer features)
    except UnicodeDecodeError:
        raise StrictYamlError("is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise StrictYamlError(f"{where}is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
