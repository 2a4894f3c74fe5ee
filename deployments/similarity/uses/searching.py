"""k-NN over every partition that fits, merged: `search` by a vector, `more_like` by something that is indexed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound, WrongEncoder
from deployments.similarity.checks import MAX_K
from deployments.similarity.content import ANY, Bank, IndexedModality, PartitionKey, SearchHit, SearchRequest
from deployments.similarity.node_settings import SimilaritySettings, primary_subtag
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.contents import Contents
from deployments.similarity.uses.entries import candidate_id, content_id, given_attributes
from deployments.similarity.values import Filter

_LIKENESS = (IndexedModality.VISUAL, IndexedModality.AUDIO, IndexedModality.TEXT)


@dataclass(frozen=True)
class SearchAnswer:
    hits: list[SearchHit]  # best first
    failed: Mapping[str, str] = field(default_factory=dict)  # partition -> why it was not searched


class Searching:
    def __init__(self, watched: WatchedPartitions, contents: Contents, settings: SimilaritySettings) -> None:
        self._watched = watched
        self._partitions: Partitions = watched.partitions
        self._contents = contents
        self._settings = settings

    def search(self, request: SearchRequest, *, use: str = "search") -> SearchAnswer:
        """One hit for each content. Partitions that hold vectors of another encoder do not fit.

        Raises WrongEncoder where all that would fit are of another encoder, NotFound for a named partition that is
        not there, NodeUnavailable where every one failed, InvalidInput.
        """
        keys = list(self._fitting(request))
        if not keys:
            return SearchAnswer([])
        filter_ = self._normalised(request.filter)
        hits: list[SearchHit] = []
        failed: dict[str, str] = {}
        others: list[WrongEncoder] = []
        for key in keys:
            try:
                hits += self._hits(key, replace(request, filter=filter_), use)
            except WrongEncoder as error:
                others.append(error)
            except NodeUnavailable as error:
                failed[str(key)] = str(error)
        if len(others) == len(keys):
            raise others[0]
        if len(others) + len(failed) == len(keys):
            raise NodeUnavailable("; ".join(failed.values()))
        return SearchAnswer(self._merged(hits, request.k), failed)

    def more_like(
        self,
        id: str,
        *,
        modality: str | None = None,
        k: int = 10,
        threshold: float | None = None,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> SearchAnswer:
        """Posts that resemble this post. `modality` None: the first of visual, audio, text that it has.

        `threshold` None: that of the use `similar`. Raises NotFound where the post, or that of it, is not indexed.
        """
        content = self._contents.stored(id)
        has = content.vectors if content is not None else {}
        modality = modality or next((one for one in _LIKENESS if one in has), None)
        if modality is None or modality not in has:
            raise NotFound(f"There is nothing in the index under the id {id!r}.", param="id")
        vector = has[modality]
        if threshold is None:
            threshold = self._settings.similar.threshold(modality, vector.encoder.name)
        filter = filter or Filter()
        filter = replace(filter, exclude_ids=filter.exclude_ids | {id})
        request = SearchRequest(
            vector.encoder, vector.vector, modality, k=k, threshold=threshold, filter=filter, exact=exact
        )
        return self.search(request, use="similar")

    def _fitting(self, request: SearchRequest) -> Iterator[PartitionKey]:
        if request.partition is not None:
            key = PartitionKey.parse(request.partition)
            self._partitions.info(key)
            yield key
            return
        if request.bank not in tuple(Bank):
            raise InvalidInput(f"There is no bank {request.bank}.", param="bank")
        languages = {self._settings.partition_language(tag) for tag in request.filter.languages}
        for key in self._partitions.keys_of(request.bank):
            if (
                key.modality == request.modality
                and (not languages or key.language in languages | {ANY})
                and (not request.filter.content_types or key.content_type in request.filter.content_types | {ANY})
            ):
                yield key

    @staticmethod
    def _normalised(filter: Filter) -> Filter:
        return replace(filter, languages=frozenset(primary_subtag(tag) for tag in filter.languages))

    def _hits(self, key: PartitionKey, request: SearchRequest, use: str) -> list[SearchHit]:
        several = key.modality == IndexedModality.PDQ  # items of one content: take enough for k contents
        (found,) = self._watched.search(
            key,
            request.encoder,
            [request.vector],
            min(MAX_K, request.k * self._settings.signatures_per_post) if several else request.k,
            use=use,
            filter=request.filter,
            threshold=request.threshold,
            exact=request.exact,
        )
        scores: dict[str, float] = {}
        chosen: list[str] = []
        for id_, score in zip(found.ids, found.scores, strict=True):
            if candidate_id(id_, key) not in scores and len(scores) < request.k:
                scores[candidate_id(id_, key)] = float(score)
                chosen.append(id_)
        items = self._watched.get(key, chosen, use=use)  # one deleted since the search is no hit
        return [
            SearchHit(
                content_id(item),
                str(key),
                scores[candidate_id(item.id, key)],
                item.created_at,
                item.language,
                item.content_type,
                given_attributes(item),
            )
            for item in (items[id_] for id_ in chosen if id_ in items)
        ]

    def _merged(self, hits: list[SearchHit], k: int) -> list[SearchHit]:
        """Best first, each content once. Raises InvalidInput where the partitions' scores do not compare."""
        better = {partition: self._metric(partition) for partition in {hit.partition for hit in hits}}
        if len(set(better.values())) > 1:
            raise InvalidInput("The partitions that fit have different metrics: name one of them.", param="partition")
        higher = all(higher for _, higher in better.values())
        ordered = sorted(hits, key=lambda hit: -hit.score if higher else hit.score)
        once: dict[str, SearchHit] = {}
        for hit in ordered:
            once.setdefault(hit.id, hit)
        return list(once.values())[:k]

    def _metric(self, partition: str) -> tuple[str, bool]:
        return self._partitions.metric(PartitionKey.parse(partition))
