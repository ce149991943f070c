"""Server-sent events.

open            who may open which stream, and where it starts
stream          one event stream
event_formats   its events as bytes
"""
