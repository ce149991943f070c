"""Publishers: how backend services publish.

    publisher   Publisher (asyncio) and SyncPublisher (plain): one channel, one document, one acknowledged position

It uses the words, the rules and the store of ``gateway``; nothing of the gateway's live part or its edges.
"""

from .publisher import Publisher, SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
