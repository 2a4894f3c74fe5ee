"""The parts behind every door, put together from the configuration and the graph: one way for HTTP and for events."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.policy.policy import Policy, default_policy
from serve_app.config import AppConfig
from serve_app.lookup import Lookup, LookupObserver
from serve_app.media_store import MediaStore, open_media_store
from serve_app.nodes import NodeHandles
from serve_app.pipeline import Pipeline
from serve_app.records import Records
from serve_app.records.references import FloodLimit
from serve_app.similarity import Similarity
from serve_app.streams.judging import ClipJudge
from serve_app.streams.state import StreamRule


@dataclass(frozen=True)
class Parts:
    policy: Policy
    records: Records
    media_store: MediaStore
    pipeline: Pipeline
    clips: ClipJudge | None  # None: streams are off


def assemble(
    config: AppConfig, nodes: NodeHandles, similarity: Similarity | None, observer: LookupObserver | None = None
) -> Parts:
    """`similarity` None: matches are not looked for. Nothing is opened yet; `Records.start` is the caller's.

    Raises PolicyError.
    """
    policy = Policy.load(config.policy) if config.policy else default_policy()
    indexing = config.similarity.indexing
    flood = FloodLimit(indexing.quarantine_posts, indexing.quarantine_window_s)
    records = Records(config.records_url, flood, StreamRule(policy), config.gate.milestones, config.gate.gating)
    lookup = Lookup(
        similarity,
        records.known,
        reuse=indexing.reuse_verdicts and similarity is not None,
        timeout_s=indexing.match_timeout_s,
        observer=observer,
    )
    return Parts(
        policy=policy,
        records=records,
        media_store=open_media_store(config.media_store_url),
        pipeline=Pipeline(nodes, policy, lookup),
        clips=_clip_judge(config, nodes, policy) if config.streams.enabled else None,
    )


def _clip_judge(config: AppConfig, nodes: NodeHandles, policy: Policy) -> ClipJudge:
    max_clip_s, max_sound_s = config.streams.encoder.max_clip_s, config.media.settings.max_stream_sound_s
    return ClipJudge(nodes, policy, config.streams.cut, max_clip_s=max_clip_s, max_sound_s=max_sound_s)
