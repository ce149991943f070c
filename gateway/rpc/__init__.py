"""Requests of clients, answered by the gateway itself or by backend services.

calls     the gateway's side of a call to a service
service   a backend service: ``gateway.rpc.Service``
methods   the methods that the gateway answers itself
"""

from ..errors import Failure
from .calls import Caller
from .service import Service

__all__ = ["Caller", "Failure", "Service"]
