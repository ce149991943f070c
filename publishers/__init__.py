"""Publishers: how backend services publish.

    publisher                      Publisher (asyncio) and SyncPublisher (threads): one document, one acknowledged position
    database · transaction         the database; a transaction, which writes rows, their publications and jobs
    engines                        SQLAlchemy's engines for PostgreSQL and SQLite, with and without asyncio
    lost_connections               connections that are lost while nobody uses them, or without a word
    sync_database                  the same without asyncio
    session_outbox                 the outbox in a Session of SQLAlchemy that a program already has
    savepoints                     what a savepoint undoes is not published
    outbox_rows                    a row of the outbox, and how one is written
    prepared                       statements that are executed often, by PostgreSQL's driver
    tables · migrator              the tables; Alembic, which applies migrations/
    relay · relay_program          the relay sends what transactions wrote, each row once and in order; what `gateway relay` runs
    outbox_reporting               how many rows wait, reported to gateways
    outbox_jobs                    jobs as rows of the outbox
    outbox_ids                     an outbox whose ids are given a second time, since its database came back older
    django                         the outbox in Django's transactions and migrations, and a view that gives tokens
    testing                        fixtures of pytest: what would be published, and a gateway
    posts · reviews · reactions    what people do
    orders                         what people buy, and the worker that processes it
    folding                        many reactions become one notification, which is updated
    checks                         what publishers are given, checked before anything is sent
    faults                         the errors of posts, reviews, reactions and orders, and the checks of their arguments

Of ``gateway`` it imports the vocabulary (``errors`` to ``config``), ``runtime``, ``rules``, ``store`` and the producer's side of ``work``, and
nothing else (``tests/test_rooms.py``).
"""

from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
