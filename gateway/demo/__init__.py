"""``gateway demo``: a site to look at, with simulated people.

backend         its pages, and the API that they call
people          the simulated people
past            what they did before the first start
work            the worker, its handlers, and what members do with its queue
work_requests   the requests of the page of the work queue
queue_view      that queue, published whenever it changes
reports         the finished reports, as files
month · paper   a month's numbers; their PDF
bodies          what requests have in common
"""

from .backend import Demo

__all__ = ["Demo"]
