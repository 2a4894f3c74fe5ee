"""The memory of the service, in SQL: posts, jobs, verdicts, keys, audit and the outbox."""

from serve_app.records.migrate import upgrade
from serve_app.records.store import Records

__all__ = ["Records", "upgrade"]
