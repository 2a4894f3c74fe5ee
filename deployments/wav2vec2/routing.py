"""Which language model judges a clip: the exact BCP-47 tag, else shorter and shorter ones, else the default."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class Route:
    """Where a clip goes."""

    language: str | None  # as the clip says
    model_language: str  # of the model that judges it
    fallback: bool  # no model of the clip's language: the default judges it


class Router:
    """Over the tags of the models there are."""

    def __init__(self, tags: Iterable[str], default: str) -> None:
        self._by_tag = {tag.lower(): tag for tag in tags}
        self._default = default

    def __call__(self, language: str | None) -> Route:
        """Lookup of RFC 4647, section 3.4: `hi-Latn-IN`, `hi-Latn`, `hi`; case does not matter."""
        for tag in _shorter_and_shorter(language or ""):
            if tag in self._by_tag:
                return Route(language, self._by_tag[tag], fallback=False)
        return Route(language, self._default, fallback=True)


def _shorter_and_shorter(language: str) -> Iterable[str]:
    subtags = language.lower().split("-")
    while subtags:
        yield "-".join(subtags)
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:  # an extension's singleton says nothing without what follows it
            subtags.pop()


def check_tag(tag: str) -> str:
    """The tag itself; raises ValueError where it is none."""
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is not a BCP-47 language tag such as `hi` or `hi-Latn`")
    return tag
