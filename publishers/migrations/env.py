"""Run by Alembic, on the connection that ``migrator.migrate`` gives it."""

from alembic import context

from publishers.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
