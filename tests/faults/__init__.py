"""The fault rig: everything runs for real, a seed decides what breaks and when, and at the end everything is checked.

    python -m tests.faults --seed 7 --minutes 5 --topology sentinel --out history.html

| module      | holds                                                                                        |
|-------------|----------------------------------------------------------------------------------------------|
| schedule    | pure: from a seed to the faults, each with its time; the table of all kinds                   |
| history     | what happened: events in the order in which they were seen, written as JSON lines              |
| verdict     | pure: from a history to what it violates                                                      |
| shrink      | pure: from a failing schedule to the fewest faults that still fail                            |
| page        | pure: from a history to one HTML page                                                         |
| topologies  | Valkey: one server, a primary and its replica with Sentinel, a cluster                        |
| stage       | all processes of a run: Valkey, gateways, relays, workers of jobs, the proxy                   |
| clients     | followers over WebSocket, emulation and event streams, which come back as an SDK and a browser do |
| publishing  | publishers with idempotency keys, the writer of the outbox, readers of inboxes, producers of jobs |
| programs    | what relays and workers of jobs do                                                           |
| scene       | what faults act on                                                                            |
| process_faults · valkey_faults | the faults, each a context manager that makes it and mends it               |
| kinds       | all of them by name                                                                           |
| last_look   | what is read of everything at the end                                                         |
| run         | one run: from a schedule to a history                                                         |

The schedule is a pure function of its arguments; the run is not: the same schedule meets other moments each time.
"""
