"""From Valkey to every subscription of this process.

server_clock      when, on the loop's clock, a publication was made in Valkey
ring              a channel's newest publications, in memory
wire_formats      what a fan-out writes to all subscriptions of one kind
fanout            a channel's live subscriptions, and the rounds that write to them
joins_and_leaves  what channels announce of clients that come and go, on its way to subscriptions
opening           the subscriptions that wait for a channel to open
channel           a channel's position, its announcements and pages of history
arrivals          what the link brought, handed to the channels and written
subscription      one client in one channel
catchup           from a position to live
mending           how closed channels open again, some at a time
first_position    the first position of a channel, read without a task
hub               which channels this process follows
gap_log           one line of the log for all histories that are gone together
traffic           what all of this counts
inbox             a channel read as a list, with read marks
"""
