"""What goes on while no client is connected.

reader             a durable reader of channels: ``gateway.work.Reader``
deliveries         what it gives: a publication to acknowledge, and the gap before it
holds              a channel that an instance reads, and what it has of it in memory
membership         an instance of a group: its lease, and which channels it takes and gives back
following          which channels a group reads
sharing            which instance of a group reads which channel
reader_calls       the reader's functions in Valkey as methods
reader_arguments   what a reader may be given
"""

from .deliveries import Delivery, Gap
from .reader import Reader

__all__ = ["Delivery", "Gap", "Reader"]
