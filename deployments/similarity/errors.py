"""What can go wrong with an index that is not the caller's fault."""

from __future__ import annotations

import logging
import re

from deployments.runtime.errors import InvalidInput, NodeUnavailable

logger = logging.getLogger(__name__)

_DIRECTORIES = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,()'\"`]+/)+")


class IndexDamaged(NodeUnavailable):
    """Stored data is not what was acknowledged, and cannot be repaired without loss: the index refuses to serve.

    The message names what was found and the command that helps. It may reach a client: files are named without their
    directories, which only the log has.
    """

    code = "index_damaged"
    message = "An index is damaged and refuses to serve."

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        told = None if message is None else _DIRECTORIES.sub("", message)
        if told != message:
            logger.error("similarity: %s", message)
        super().__init__(told, param=param)


class IndexClosed(NodeUnavailable):
    """The index was closed, or what a write left on its disk is not known: it must be opened anew."""

    code = "index_closed"
    message = "The index is closed."


class IndexUnwritable(NodeUnavailable):
    """The disk is full, or refuses: nothing of the write was kept. The next one may succeed."""

    code = "index_unwritable"
    message = "The index could not write to its disk; nothing was changed."


class BeyondRetention(InvalidInput):
    """Asked about a time of which a feed remembers nothing any more: "not shown" would be a guess."""

    status, code = 422, "beyond_retention"
    message = "Nothing is remembered for so long."
