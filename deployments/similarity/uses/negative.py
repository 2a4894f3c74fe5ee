"""The negative bank: what must never be the reason for a match. A black frame, a platform's intro, a public flag.

Frames that it knows are taken out of a question, and vectors that it knows; the rest of the content still matches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import ParakhError, WrongEncoder
from deployments.similarity.content import PDQ_ENCODER, Bank, Content, ContentVector, FrameSignatures, IndexedModality
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.candidates import Scope, enabled
from deployments.similarity.uses.settings import UseSettings

_USE = "negative"
_SCOPE = Scope(Bank.NEGATIVE)
_K = 64  # enough to see past entries that are switched off
_SEEN = frozenset({"video", "image", "gif"})


class NegativeBank:
    """`counts`: what is near enough to be the same; the thresholds of protected works."""

    def __init__(self, watched: WatchedPartitions, counts: UseSettings) -> None:
        self._watched = watched
        self._counts = counts

    def without(self, content: Content) -> tuple[Content, list[str]]:
        """The content without what the bank knows of it; why it could not tell, where it could not."""
        reasons: list[str] = []
        vectors = {
            modality: vector
            for modality, vector in content.vectors.items()
            if not self._knows(content.content_type, modality, vector, reasons)
        }
        signatures = None if content.signatures is None else self._left(content.signatures, reasons)
        told = [f"negative bank: {reason}" for reason in reasons]
        return replace(content, vectors=vectors, signatures=signatures), told

    def _knows(self, content_type: str, modality: str, vector: ContentVector, reasons: list[str]) -> bool:
        threshold = self._counts.threshold(modality, vector.encoder.name)
        if threshold is None:
            return False
        for key in _SCOPE.keys(self._watched, modality, frozenset({content_type})):
            try:
                (found,) = self._watched.search(key, vector.encoder, [vector.vector], _K, use=_USE, threshold=threshold)
                if any(enabled(item) for item in self._watched.get(key, found.ids, use=_USE).values()):
                    return True
            except WrongEncoder:
                continue
            except ParakhError as error:
                reasons.append(f"{key}: {error}")
        return False

    def _left(self, signatures: FrameSignatures, reasons: list[str]) -> FrameSignatures:
        bits = self._counts.threshold(IndexedModality.PDQ, PDQ_ENCODER.name)
        if bits is None or not len(signatures.hashes):
            return signatures
        left: NDArray[np.bool_] = np.ones(len(signatures.hashes), bool)
        for key in _SCOPE.keys(self._watched, IndexedModality.PDQ, _SEEN):
            try:
                found = self._watched.search(key, PDQ_ENCODER, list(signatures.hashes), _K, use=_USE, threshold=bits)
                items = self._watched.get(key, sorted({id_ for one in found for id_ in one.ids}), use=_USE)
                known = {id_ for id_, item in items.items() if enabled(item)}
                left &= np.array([known.isdisjoint(one.ids) for one in found])
            except ParakhError as error:
                reasons.append(f"{key}: {error}")
        return FrameSignatures(signatures.hashes[left], signatures.quality[left], signatures.times_s[left])
