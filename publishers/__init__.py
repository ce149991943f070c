"""Publishers: how backend services publish.

    publisher                      Publisher (asyncio) and SyncPublisher (threads): one document, one acknowledged position
    database · transaction         the database; a transaction, which writes rows and their publications
    tables · migrator              the tables; Alembic, which applies migrations/
    relay · relay_program          the relay publishes what transactions wrote, each row once and in order; what `gateway relay` runs
    posts · reviews · reactions    what people do
    folding                        many reactions become one notification, which is updated
    checks                         what publishers are given, checked before anything is sent
    faults                         the errors of posts, reviews and reactions, and the checks of their arguments

It imports the words, ``runtime``, ``rules`` and ``store`` of ``gateway``, and nothing else of it (``tests/test_rooms.py``).
"""

from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
