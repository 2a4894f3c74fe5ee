"""Alembic's entry: runs on the connection it is given, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from serve_app.records import event_tables, gate_tables, similarity_tables  # noqa: F401 - their tables belong to the metadata
from serve_app.records.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    compare_type=True,
    transactional_ddl=True,
    user_module_prefix=None,
)
with context.begin_transaction():
    context.run_migrations()
