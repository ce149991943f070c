"""What asyncio does not have.

tasks      tasks that no code awaits: held while they run, their errors logged
turns      how much of one kind of work a turn of the loop does
wheel      one timer for all connections of a process
loop_lag   how late the loop is
moments    since when something exists, for many objects
memory     how much this process has
histogram  how many values lay in which range
logs       log lines that what comes from outside cannot forge
tracing    spans of OpenTelemetry, where the process has a TracerProvider; spans holds what needs its packages
backoff    how long to wait before the next attempt, and the loops that try again
failure_log which failures of a row are logged for people
"""
