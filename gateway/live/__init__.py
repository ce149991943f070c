"""From Valkey to every subscription of this process.

ring           a channel's newest publications, in memory
wire_formats   what a fan-out hands to all subscriptions of one kind
channel        a channel's position, and the fan-out to its live subscriptions
catchup        from a position to live
hub            which channels this process follows, and how their position becomes certain again
inbox          a channel read as a list, with read marks
"""
