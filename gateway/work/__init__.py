"""What goes on while no client is connected.

reader          a durable reader of channels: ``gateway.work.Reader``
deliveries      what it gives: a publication to acknowledge, and the gap before it
reader_calls    the reader's functions in Valkey as methods
sharing         which instance of a group reads which channel
"""

from .deliveries import Delivery, Gap
from .reader import Reader

__all__ = ["Delivery", "Gap", "Reader"]
