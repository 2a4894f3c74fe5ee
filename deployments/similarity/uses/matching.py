"""Which known content does this match, for which use, and why: one call, one explanation for each match.

For each use its bank, in every language. What the negative bank knows is taken out of the question first; candidates
are found by signatures and by vectors, and verified; of several ways to the same content the surest is told. A
partition that fails is named under `failed`, and the others answer.

Still pictures, gifs and videos meet by their frames' signatures: for references and hash lists all with all, for
duplicates a still never with a video. Vectors meet within one content type; sound, for references, in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deployments.runtime.errors import InvalidInput, ParakhError, WrongEncoder
from deployments.similarity.content import Bank, Content, IndexedModality, Match, MatchAnswer, Stage, Use
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.candidates import Candidates, Question, Scope
from deployments.similarity.uses.entries import check_content
from deployments.similarity.uses.negative import NegativeBank

_BANKS = {Use.KNOWN_BAD: Bank.KNOWN_BAD, Use.PROTECTED: Bank.PROTECTED, Use.DUPLICATE: Bank.POSTS}
_SUPPRESSED = (Use.PROTECTED, Use.DUPLICATE)  # nobody silences a list of known-bad content with a reference
_SEEN = frozenset({"video", "image", "gif"})
_NEAR_SEEN = {
    "image": frozenset({"image", "gif"}),
    "gif": _SEEN,
    "video": frozenset({"gif", "video"}),
}
_HEARD = frozenset({"audio", "video"})
_RANK = {stage: rank for rank, stage in enumerate(Stage)}


class Matching:
    def __init__(self, watched: WatchedPartitions, settings: SimilaritySettings) -> None:
        self._watched = watched
        self._settings = settings
        self._candidates = Candidates(watched, settings)
        self._negative = NegativeBank(watched, settings.protected)

    def match(self, content: Content, uses: Iterable[Use]) -> MatchAnswer:
        """Never content of the same id. Raises InvalidInput for content that no index could take."""
        check_content(content)
        uses = tuple(dict.fromkeys(uses))
        if any(use not in _BANKS for use in uses):
            raise InvalidInput("Content is matched for known_bad, protected and duplicate.", param="uses")
        wanted = [use for use in uses if self._settings.use(use).enabled]
        suppressed, unsaid = self._negative.without(content) if set(wanted) & set(_SUPPRESSED) else (content, [])
        matches: list[Match] = []
        failed: dict[str, str] = {}
        for use in wanted:
            asked = suppressed if use in _SUPPRESSED else content
            found, reasons = self.within(asked, use, Scope(_BANKS[use]))
            matches += found
            reasons += unsaid if use in _SUPPRESSED else []
            if reasons:
                failed[str(use)] = "; ".join(reasons)
        return MatchAnswer(tuple(matches), failed)

    def retroactive(self, reference: Content, limit: int = 200) -> MatchAnswer:
        """Past posts that a new reference matches: `id` is the post's, the segments' `other` seconds too. The `limit`
        surest of them; `truncated` where there may be more.
        """
        check_content(reference)
        if not self._settings.protected.enabled:
            return MatchAnswer()
        asked, reasons = self._negative.without(reference)
        question = Question(asked, Use.PROTECTED, self._settings.protected, Scope(Bank.POSTS, limit=limit))
        matches, more = self._answer(question)
        reasons += more
        failed = {str(Use.PROTECTED): "; ".join(reasons)} if reasons else {}
        return MatchAnswer(tuple(matches[:limit]), failed, truncated=len(matches) > limit or bool(question.full))

    def within(self, content: Content, use: Use, scope: Scope) -> tuple[list[Match], list[str]]:
        """(matches, best first; why what was not searched), with the thresholds and checks of `use`."""
        matches, reasons = self._answer(Question(content, use, self._settings.use(use), scope))
        return matches[: scope.limit or self._settings.max_matches], reasons

    def _answer(self, question: Question) -> tuple[list[Match], list[str]]:
        reasons: list[str] = []
        best: dict[str, Match] = {}
        for match in (*self._by_signatures(question, reasons), *self._by_vectors(question, reasons)):
            known = best.get(match.id)
            if known is None or _order(match) < _order(known):
                best[match.id] = match
        return sorted(best.values(), key=_order), reasons

    def _by_signatures(self, question: Question, reasons: list[str]) -> Iterator[Match]:
        types = _SEEN
        if question.use is Use.DUPLICATE:
            types = _NEAR_SEEN.get(question.content.content_type, _SEEN)
        for key in question.scope.keys(self._watched, IndexedModality.PDQ, types):
            try:
                yield from self._candidates.by_signatures(key, question)
            except ParakhError as error:
                reasons.append(f"{key}: {error}")

    def _by_vectors(self, question: Question, reasons: list[str]) -> Iterator[Match]:
        content_type = question.content.content_type
        for modality, vector in question.content.vectors.items():
            threshold = question.counts.threshold(modality, vector.encoder.name)
            if threshold is None or not _tells(content_type, modality, question.use):
                continue
            owned_sound = question.use is Use.PROTECTED and modality == IndexedModality.AUDIO
            for key in question.scope.keys(
                self._watched, modality, _HEARD if owned_sound else frozenset({content_type})
            ):
                try:
                    if self._watched.partitions.encoder(key) == vector.encoder:  # vectors of two do not compare
                        yield from self._candidates.by_vector(key, question, vector, threshold)
                except WrongEncoder:  # switched at this moment
                    continue
                except ParakhError as error:
                    reasons.append(f"{key}: {error}")


def _tells(content_type: str, modality: str, use: Use) -> bool:
    """Does this modality tell that the content is the same? A caption or a song is no video; for its owner it is."""
    if modality == IndexedModality.VISUAL:
        return content_type in _SEEN
    if modality == IndexedModality.AUDIO:
        return content_type == "audio" or (use is Use.PROTECTED and content_type == "video")
    return modality == IndexedModality.TEXT and content_type == "text"


def _order(match: Match) -> tuple[int, float, str]:
    """Surest first: by stage, then by how near."""
    near = match.distance if match.distance is not None else -(match.score or 0.0)
    return _RANK[match.stage], near, match.id
