"""Publishers: how backend services publish.

    publisher            Publisher (asyncio) and SyncPublisher (plain): one document, one acknowledged position
    database · tables · schema     transactions that say what happened; tables; migrations (migrations/), applied by Alembic
    outbox               the relay: publishes what transactions said, each row once and in order
    posts · reviews · reactions    what people do; folding: many reactions, one notification
    relaying             what `gateway relay` runs
    faults               what is refused, and the checks of what comes from outside

It uses the words, the rules and the store of ``gateway``, and its inbox; nothing of the gateway's live part or its edges.
"""

from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
