"""Rules: bytes and values in, values out. No I/O, no clock.

protocol        the Centrifuge JSON protocol: text to commands, results to text
json_text       JSON that publishers wrote: checked, cleaned, never rebuilt
json_values     values of Python as JSON, checked before they are sent
recovery        where a position is in a channel, and what follows it without a hole
identity        who a client is, and what its tokens gave it
permissions     who may do what in a channel
filters         which publications a subscription wants, by their tags
delta           a document as a change of the one before it
rate_limit      token buckets, a number each
addresses       which addresses of clients count as one
notifications   names of inboxes and ids of notifications
"""
