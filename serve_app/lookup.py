"""What is known of a post before it is judged, and what resembles it after: hash lists, re-uploads, matches.

    bytes -> digests -> listed?  ---> known bad: no encoder runs
                     -> original? --> an exact re-upload: its verdict stands for this post, no encoder runs
    vectors, signatures -> matches -> the policy may raise the action

A look-up that fails never fails the verdict: it is told as a value, and callers who can wait raise it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable, ParakhError
from deployments.similarity.content import Content, Stage, Use
from serve_app.contents import digests_of, listed_report, match_report, same_bytes_report
from serve_app.posts import MatchReport, Post, ReuseReport, SimilarityReport, Verdict
from serve_app.similarity import MATCH_USES, Digests, KnownContent, NothingKnown, SameContent, Similarity

logger = logging.getLogger(__name__)

BIG_BYTES = 256 * 1024  # from here on hashing goes to a thread
_RANK = {Use.KNOWN_BAD: 0, Use.PROTECTED: 1, Use.DUPLICATE: 2}


@dataclass(frozen=True)
class Found:
    """Matches, and whether they were looked for."""

    matches: list[MatchReport] = field(default_factory=list)
    actions: dict[str, str] = field(default_factory=dict)  # post id -> action, of the duplicates
    status: SimilarityReport = field(default_factory=lambda: SimilarityReport(status="off"))
    error: ParakhError | None = None  # why it failed, for callers who can wait

    def and_failed(self, error: ParakhError | None) -> Found:
        """Where the hash lists could not be asked either, that is said first."""
        if error is None:
            return self
        reasons = [f"known_bad: {error}", *([self.status.reason] if self.status.reason else [])]
        return replace(self, status=SimilarityReport(status="failed", reason="; ".join(reasons)), error=error)


@dataclass(frozen=True)
class Known:
    """What the digests of the media told."""

    listed: list[MatchReport] = field(default_factory=list)
    original: Verdict | None = None
    sha256: str | None = None
    error: ParakhError | None = None


class LookupObserver(Protocol):
    """Counts; never with a post's id."""

    def matched(self, use: str, stage: str) -> None: ...

    def reused(self) -> None:
        """A verdict that no encoder had to run for."""
        ...

    def search_failed(self) -> None: ...


class Unobserved:
    def matched(self, use: str, stage: str) -> None: ...

    def reused(self) -> None: ...

    def search_failed(self) -> None: ...


class Lookup:
    """`similarity` None: nothing is searched, and the verdict says `off`."""

    def __init__(
        self,
        similarity: Similarity | None,
        known: KnownContent | None = None,
        *,
        reuse: bool = True,
        timeout_s: float = 5.0,
        observer: LookupObserver | None = None,
    ) -> None:
        self._similarity = similarity
        self._known = known or NothingKnown()
        self._reuse = reuse
        self._timeout_s = timeout_s
        self._observer = observer or Unobserved()

    async def known(self, post: Post, data: bytes, policy_version: str) -> Known:
        """Before anything is decoded."""
        digests = digests_of(data) if len(data) < BIG_BYTES else await asyncio.to_thread(digests_of, data)
        found = await self.listed(digests)
        if found.listed or found.error is not None or not self._reuse:
            return found
        same = SameContent(
            post_id=post.post_id,
            media_sha256=digests.sha256,
            content_type=post.content_type,
            caption=(post.caption or "").strip(),
            language=post.language,
            policy_version=policy_version,
        )
        try:
            return Known(original=await self._known.original(same))
        except NodeUnavailable as error:
            return Known(error=error)

    async def listed(self, digests: Digests) -> Known:
        try:
            entries = await self._known.listed(digests)
            for _ in entries:
                self._observer.matched(Use.KNOWN_BAD, Stage.DIGEST)
            return Known(listed=[listed_report(entry) for entry in entries], sha256=digests.sha256)
        except NodeUnavailable as error:
            return Known(error=error)

    async def matches(self, content: Content) -> Found:
        """Never raises: a search that failed says so."""
        found = await self._matches(content)
        for match in found.matches:
            self._observer.matched(match.use, match.stage)
        if found.status.status == "failed":
            self._observer.search_failed()
        return found

    def reused(self) -> None:
        self._observer.reused()

    async def _matches(self, content: Content) -> Found:
        if self._similarity is None:
            return Found()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._similarity.match(content, MATCH_USES)
            reports = [match_report(match) for match in answer.matches if not _itself(match.use, match.id, content)]
            reports.sort(key=lambda report: _RANK.get(Use(report.use), len(_RANK)))  # stable: best first within a use
            actions = await self._known.actions({match.id for match in reports if match.use == Use.DUPLICATE})
        except TimeoutError:
            unavailable = NodeUnavailable(f"The index did not answer within {self._timeout_s:g} s.")
            return Found(status=SimilarityReport(status="failed", reason=str(unavailable)), error=unavailable)
        except ParakhError as error:
            return Found(status=SimilarityReport(status="failed", reason=str(error)), error=error)
        except Exception:  # a search must not cost the verdict, whatever it ran into
            logger.exception("the search for matches failed")
            return Found(status=SimilarityReport(status="failed", reason="the search failed on this post"))
        failed = "; ".join(f"{use}: {reason}" for use, reason in sorted(answer.failed.items()))
        status = SimilarityReport(status="failed", reason=failed) if failed else SimilarityReport(status="ok")
        return Found(reports, dict(actions), status, NodeUnavailable(failed) if failed else None)


def reused_matches(original: Verdict, post_id: str) -> list[MatchReport]:
    """What the original matched holds for its re-upload; first of all that it is the same bytes."""
    others = [match for match in original.matches if match.id not in (post_id, original.post_id)]
    protected = [match for match in others if match.use != Use.DUPLICATE]
    duplicates: Sequence[MatchReport] = [match for match in others if match.use == Use.DUPLICATE]
    return [*protected, same_bytes_report(original.post_id), *duplicates]


def reuse_of(original: Verdict) -> ReuseReport:
    """The post that was truly judged, however often its verdict was reused since."""
    return original.reused_from or ReuseReport(post_id=original.post_id, revision=original.revision)


def _itself(use: str, id_: str, content: Content) -> bool:
    return use == Use.DUPLICATE and id_ == content.id
