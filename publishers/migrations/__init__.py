"""The schema's history, by Alembic: ``versions/`` holds one step each, ``env.py`` is what Alembic runs."""
