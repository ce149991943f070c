"""A real-time notification gateway, native to Valkey.

    publisher → FCALL gateway_publish ═ Valkey: stream + Pub/Sub ═ link → hub → sessions → sockets

The packages, in the order in which they may import: a module imports from packages above its own, and from its own.
``tests/test_rooms.py`` reads this table and checks it, and that no two modules import each other.

| packages                  | hold                                                                       |
|---------------------------|----------------------------------------------------------------------------|
| errors                    | vocabulary: what goes wrong, and whose fault it is                              |
| origins                   | vocabulary: which pages of browsers may talk to the gateway                     |
| environment               | vocabulary: which environment variables are meant for the gateway               |
| publication               | vocabulary: a position in a channel, a publication                              |
| bridging                  | vocabulary: what is bridged from other programs' channels, Lists and Streams    |
| channel_rules             | vocabulary: the settings of a namespace, and which channels are the gateway's own |
| config_faults             | vocabulary: what is wrong with a setting, in a sentence                         |
| config                    | vocabulary: every setting                                                       |
| runtime                   | what asyncio does not have: held tasks, the timer wheel, waiting and retrying |
| rules                     | pure, no I/O, no clock: protocol, recovery, permissions, filters, deltas   |
| store auth                | Valkey; tokens and keys                                                    |
| live                      | from Valkey to every subscription                                          |
| control                   | what processes send each other                                             |
| rpc                       | requests to services                                                       |
| work                      | queues, workers, durable readers, bridges                                   |
| session                   | one client                                                                 |
| edges                     | WebSocket, server-sent events, HTTP                                        |
| documentation             | the pages of static/docs as a site, with a search                          |
| metrics                   | the figures of all parts and worker processes, for Prometheus              |
| console                   | what operators see and do with a browser                                   |
| app                       | wiring: from a configuration to an ASGI application                        |
| serve                     | uvicorn, worker processes, drain                                           |
| demo                      | the demo site and its simulated people                                     |
| bench                     | what this installation can do, measured and drawn                          |
| recipes                   | files for proxies, systemd, containers and monitoring                      |
| cli                       | the commands                                                               |
| __main__                  | ``python -m gateway``                                                      |
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
