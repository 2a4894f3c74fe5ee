"""The model profiles: which models belong together, what a file may not change about them, what they are worth.

`apply_profile` lays a profile's models under what a configuration file says. What makes the profile itself
(`FIXED`) cannot be overridden: whoever wants another mix says `profile: custom` and gives every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from deployments.xlmr.e5_conversion import NAME as E5_NAME
from deployments.xlmr.e5_conversion import PREFIX as E5_PREFIX

Profile = Literal["local", "full", "custom"]
KeyPath = tuple[str, ...]

PROFILE_NOTES: Mapping[str, str] = {
    "local": (
        "Local profile: the text encoder (multilingual-e5-small) and OpenNSFW are real pretrained models; the sound "
        "encoder and the fusion head are trained on generated stand-ins. It shows that the machinery works; its scores "
        "say nothing reliable about real posts."
    ),
    "full": (
        "Full profile: CLIP RN50, XLM-R large and VGGish under a fusion head trained by the operator; its scores are "
        "worth what that head's held-out report says."
    ),
    "custom": "Custom profile: the operator's own choice of models; its scores are worth what their report says.",
}

FIXED: Mapping[str, Mapping[KeyPath, Any]] = {
    "local": {
        ("clip", "encoder", "model"): "opennsfw",
        ("vggish", "encoder", "variant"): "vggish-small",
        ("xlmr", "encoder", "prefix"): E5_PREFIX,
    },
    "full": {
        ("clip", "encoder", "model"): "open-clip",
        ("clip", "encoder", "architecture"): "RN50",
        ("vggish", "encoder", "variant"): "vggish",
    },
}

DEFAULTS: Mapping[str, Mapping[KeyPath, Any]] = {
    "full": {
        ("clip", "encoder", "checkpoint"): "openai",
        ("xlmr", "encoder", "model"): "FacebookAI/xlm-roberta-large",
    },
}

_ABSENT = object()


def apply_profile(profile: object, given: Mapping[str, Any], models_dir: Path) -> dict[str, Any]:
    """`given` with the profile's models filled in; unknown profiles are left to the field's own validation.

    Raises ValueError where `given` contradicts the profile.
    """
    fixed = dict(FIXED.get(str(profile), {}))
    if profile == "local":
        fixed["xlmr", "encoder", "model"] = str(models_dir / E5_NAME)
    tree = dict(given)
    for path, value in fixed.items():
        said = _lookup(tree, path)
        if said is not _ABSENT and said != value:
            raise ValueError(
                f"{'.'.join(path)} is {said!r}, but profile {profile!r} means {value!r}: a profile's models are not "
                "mixed; say `profile: custom` for another set"
            )
        tree = _with(tree, path, value)
    for path, value in DEFAULTS.get(str(profile), {}).items():
        if _lookup(tree, path) is _ABSENT:
            tree = _with(tree, path, value)
    return tree


def _lookup(tree: Mapping[str, Any], path: KeyPath) -> Any:
    node: Any = tree
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return _ABSENT
        node = node[key]
    return node


def _with(tree: Mapping[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    """A copy of the tree with one leaf set."""
    head, rest = path[0], path[1:]
    if not rest:
        return {**tree, head: value}
    inner = tree.get(head, {})
    return {**tree, head: _with(inner, rest, value) if isinstance(inner, Mapping) else inner}
