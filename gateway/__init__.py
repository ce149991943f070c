"""A real-time notification gateway, native to Valkey.

    publisher → FCALL gateway_publish ═ Valkey: stream + Pub/Sub ═ link → hub → sessions → sockets

Which room holds what, and who may import whom. Imports point upwards only: a module may import modules
of a smaller floor, and of its own. ``tests/test_rooms.py`` reads this table and checks it.

| floor | rooms                                                              | holds                                   |
|-------|--------------------------------------------------------------------|-----------------------------------------|
| 1     | errors publication config                                          | words; no I/O, no third party but msgspec and pydantic |
| 2     | protocol recovery permissions filters delta retry pace             | rules; pure, no I/O, no clock           |
| 3     | store                                                              | Valkey: functions, history, link, embedded server |
| 4     | tasks ring wires channel catchup hub timers inbox calls service rpc control presence revocation lifecycle node steering subscription deadlines commands session | what is live in this process            |
| 5     | keys tokens edges                                                  | WebSocket, SSE, HTTP                    |
| 6     | app server workers credentials                                     | wiring: ASGI application, uvicorn, signals, drain |
| 7     | cli options programs follow demo members __main__                  | programs                                |
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
