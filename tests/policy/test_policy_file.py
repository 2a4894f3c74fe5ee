"""A policy file is taken whole or refused with its name and the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.policy.policy import Policy, PolicyError
from deployments.runtime.errors import InvalidInput

GOOD = """
version: "2026-1"
categories:
  nudity: {review: 0.5, block: 0.9}
  sexual: {review: 0.5, block: 0.9}
  violence: {review: 0.5, block: 0.9}
  abusive: {review: 0.5, block: 0.9}
  hate: {review: 0.5, block: 0.9}
  dangerous: {review: 0.5, block: 0.9}
any: {review: 0.6, block: 0.95}
"""

DAMAGES = {
    "unknown category": (GOOD.replace("hate:", "hatred:"), "categories: unknown category 'hatred'"),
    "missing category": (GOOD.replace("  hate: {review: 0.5, block: 0.9}\n", ""), "categories: missing category hate"),
    "safe": (GOOD.replace("  hate:", "  safe: {review: 0.5, block: 0.9}\n  hate:"), "`safe` takes no threshold"),
    "above one": (GOOD.replace("block: 0.95", "block: 1.5"), "any.block"),
    "below zero": (GOOD.replace("review: 0.6", "review: -0.1"), "any.review"),
    "nan": (GOOD.replace("review: 0.6", "review: .nan"), "any.review"),
    "boolean": (GOOD.replace("review: 0.6", "review: yes"), "any.review"),
    "text": (GOOD.replace("review: 0.6", "review: '0.6'"), "any.review"),
    "block below review": (GOOD.replace("block: 0.95", "block: 0.2"), "any: block threshold 0.2 is below"),
    "unknown key": (GOOD + "treshold: 1\n", "treshold: Extra inputs"),
    "unknown key inside": (GOOD.replace("block: 0.95", "blok: 0.95"), "any.bl"),
    "duplicate key": (GOOD + "any: {review: 0.1, block: 0.2}\n", "line 11: duplicate key 'any'"),
    "duplicate key inside": (GOOD.replace("block: 0.95", "review: 0.95"), "duplicate key 'review'"),
    "number as version": (GOOD.replace('"2026-1"', "2026.10"), "version: Input should be a valid string"),
    "date that is none": (GOOD.replace('"2026-1"', "2026-13-45"), "line 2: '2026-13-45' is no date or number"),
    "number that is none": (GOOD.replace("review: 0.6", "review: 0b_"), "line 10: '0b_' is no date or number"),
    "not YAML": (GOOD + "}{", "is not YAML"),
    "empty": ("", "the document"),
    "list": ("[1, 2]", "the document"),
    "python tag": (GOOD + "default_action: !!python/name:os.system ''\n", "tag"),
    "plain tag": (GOOD + "default_action: !!str allow\n", "tag"),
    "alias": (
        GOOD.replace("nudity: {", "nudity: &a {").replace("hate: {review: 0.5, block: 0.9}", "hate: *a"),
        "anchors",
    ),
    "two documents": (GOOD + "---\nversion: x\n", "more than one document"),
    "deep nesting": ("a: " + "[" * 5000, "is nested too deeply"),
    "failed modality allowed": (GOOD + "on_failed_modality: allow\n", "on_failed_modality"),
    "unknown action": (GOOD + "default_action: delete\n", "default_action"),
    "language that is none": (GOOD + "languages: {'hi in': {}}\n", "languages: 'hi in' is not a BCP-47"),
    "language twice": (GOOD + "languages: {hi: {}, HI: {}}\n", "languages: the same language"),
    "unknown category in language": (GOOD + "languages: {hi: {rude: {review: 0, block: 1}}}\n", "languages: unknown"),
    "known-bad content allowed": (GOOD + "matches: {known_bad: {action: allow}}\n", "matches.known_bad.action"),
    "known-bad content safe": (GOOD + "matches: {known_bad: {category: safe}}\n", "matches.known_bad.category"),
    "legal hold in words": (GOOD + "matches: {known_bad: {legal_hold: 'on'}}\n", "matches.known_bad.legal_hold"),
    "unknown use": (GOOD + "matches: {similar: {action: block}}\n", "matches.similar"),
    "unknown protected action": (GOOD + "matches: {protected: {action: ask}}\n", "matches.protected.action"),
    "a duplicate is blocked": (GOOD + "matches: {duplicate: {action: block}}\n", "matches.duplicate.action"),
    "matches as a list": (GOOD + "matches: []\n", "matches"),
    "severity falls": (GOOD + "severity: [0.5, 0.2, 0.8]\n", "severity"),
    "severity too short": (GOOD + "severity: [0.5]\n", "severity"),
}


def load(tmp_path: Path, content: bytes) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    return Policy.load(path)


def test_the_undamaged_file_loads(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.encode()).version == "2026-1"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_policy_is_refused_with_file_and_field(tmp_path: Path, damage: str) -> None:
    content, message = DAMAGES[damage]
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, content.encode())
    assert str(caught.value).startswith(str(tmp_path / "policy.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01", b"a" * 1_000_001])
def test_bytes_that_are_no_policy_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(PolicyError, match=r"policy\.yaml"):
        load(tmp_path, content)


def test_a_missing_file_is_a_policy_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.load(tmp_path / "nowhere.yaml")


def test_a_policy_error_is_the_request_senders_fault_in_the_error_tree() -> None:
    assert issubclass(PolicyError, InvalidInput)
