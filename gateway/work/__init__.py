"""What goes on while nobody is connected.

bridges           all bridges of a process: entries of foreign Lists and Streams, and foreign messages, become publications
mapping           pure: from an entry to a publication, by the rules of a bridge
source            what a bridge reads from, as far as all sources are alike; and the record of what could not be published
foreign_keys      Lists and Streams, whose entries come exactly once
foreign_messages  Pub/Sub channels and patterns, whose messages come at most once
exclusive         work that one process of all does
"""
