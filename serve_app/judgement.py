"""What the pipeline gives for a post: the verdict, and what the index is to be told."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.similarity.content import Content
from serve_app.posts import Verdict


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    content: Content | None = None  # None: nothing is indexed
    copy_of: str | None = None  # the vectors are those that the index has under this id
