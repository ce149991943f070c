"""What tests need, one maker of each thing; no test file imports another.

tokens     of connections and subscriptions         channels    names that no other test uses
gateways   in processes of their own                valkeys     the shared one, and those that may die
databases  SQLite and PostgreSQL                    programs    the command ``gateway``
clients    WebSocket, event stream, HTTP by hand    publishing  documents, many at once
javascript centrifuge of npm, under node            python_sdk  centrifuge-python, driven in the same way
sdks       a backend service for both of them       inboxes     of users, and a naive model of one
browser    Chromium, and what its pages saw         clock       one that a test moves
waiting    until something holds                    headers     those of every answer
forks      processes that start in milliseconds     relays      relays and writers that die
model      a naive model of recovery                mounted     the gateway inside another application
quiet_hub  one whose Valkey does nothing by itself
examples   how many a search looks at               quick_digests  of secrets, in one round
web_proxies  nginx, Caddy and HAProxy in front of a gateway
"""
