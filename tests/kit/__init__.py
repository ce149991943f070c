"""What tests need, one maker of each thing; no test file imports another.

Valkey:

valkeys          the one that all share, and those that may die
servers          a primary with its replica, Sentinel, TLS
clusters         real clusters, and what happens to them
topologies       the same tests on a single server, behind Sentinel and on a cluster
proxies          a way to a Valkey that delays or loses what is sent over it
acl              users with the least rights
channels         names of channels and users that no other test uses

Gateways:

gateways         in processes of their own
served           one in the process of the test itself
mounted          one inside another application
demos            ``gateway demo``
programs         the command ``gateway``
forks            processes that start in milliseconds; frozen, quick_digests: what makes them fast
ports            for servers that have to be told theirs
certificates     for TLS
keys · tokens    of every kind, right and wrong ones
nginx            in front of a gateway
web_proxies      nginx, Caddy and HAProxy, each with its recipe
prometheus       a real one; scrapes: what ``GET /metrics`` says
traces           spans of OpenTelemetry

Clients:

clients          WebSocket, event stream, HTTP by hand
javascript       centrifuge of npm, under node
python_sdk       centrifuge-python, driven in the same way
sdks             a backend service for both of them
devices          of one user, with one inbox
followers        each checks what it gets, while a publisher never stops
bystander        who must notice nothing of what others do
headers          those of every answer
publishing       documents, many at once
inboxes          of users, and a naive model of one

Pages:

browser          Chromium, and what its pages saw
accessibility    what keeps people from using a page
console_pages    the console in a browser; operators: over HTTP
documentation    snippets of the pages in ``static/docs``

Work and publishers:

services         backend services
jobs             a producer and workers; order_workers: those of the orders
queue_functions  a queue's functions, called without any worker
bridging         bridges
readers          durable readers
databases        SQLite and PostgreSQL
outboxes         what a database of the publishers holds, and a table that is away
relays           relays and writers that die; job_relays: the same of jobs
django_outbox    a program of Django
refusals         wrong arguments, each with its error

Models, which the real thing is compared with:

model            of recovery
queue_model      of a work queue
quiet_hub        a hub whose Valkey does nothing by itself
why_play         the play against Why?, with its why_stage and its why_players
openapi_hooks    what schemathesis has to know beyond the schema
examples         how many of them a search looks at

Time:

waiting          until something holds
clock            one that a test moves
virtual_time     hours of sleep that cost nothing
wall_clocks      one that is set under a running process
turns            which turn of the loop it is
beside           what waits for seconds runs beside its module's other tests
memory_folder    where the tests' files are
"""
