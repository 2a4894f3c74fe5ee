"""What can go wrong with an index that is not the caller's fault."""

from __future__ import annotations

from deployments.runtime.errors import NodeUnavailable


class IndexDamaged(NodeUnavailable):
    """Stored data is not what was acknowledged, and cannot be repaired without loss: the index refuses to serve.

    The message names what was found and the command that helps.
    """

    code = "index_damaged"
    message = "An index is damaged and refuses to serve."


class IndexClosed(NodeUnavailable):
    """The index was closed, or what a write left on its disk is not known: it must be opened anew."""

    code = "index_closed"
    message = "The index is closed."


class IndexUnwritable(NodeUnavailable):
    """The disk is full, or refuses: nothing of the write was kept. The next one may succeed."""

    code = "index_unwritable"
    message = "The index could not write to its disk; nothing was changed."
