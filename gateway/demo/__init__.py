"""``gateway demo``: a site to look at, with simulated people.

backend   its pages, and the API that they call
people    the simulated people
"""

from .backend import Demo

__all__ = ["Demo"]
