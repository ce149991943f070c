"""The console at ``/admin/``: what operators see and do with a browser, for all processes and machines.

    page (static/admin) ──POST /admin/api/METHOD──▶ admin_routes ──▶ methods ──questions over the bus──▶ every process
         ▲                                                                                            │
         └──────────── gateway.js, the channel console:live ◀── figures, log lines, once a second ◀───┘

admin_session    who logged in, with which role; what keeps other sites' pages out
login            how often keys may be tried
admin_routes     paths, headers and bodies: everything of HTTP
caller           what a method is given: the console of this process, and the caller's session
console          making the console of a process
methods          the table of all methods, and of the questions that processes answer
live_connection  the token for live connections; following any channel on one of them
live_figures     the figures that a process publishes each second while a page is open
log_lines        the last lines of the log, without secrets
nodes            what each process is and has logged; draining one of them
clients          which connections there are; one of them with its subscriptions
channels         which channels are followed most; what one of them is and holds
permitted        what the settings let a user do in a channel, by which of them
inboxes          what a user has in the inbox
queue_methods    work queues, their jobs and dead letters
readers          durable readers and outboxes
why              whether a user was given a publication, and why not
evidence         what was found for that, and the verdict that follows
why_present      what the connections were given that there are now
why_past         what those were given that have ended, from lifecycle events
why_elsewhere    the inbox, and durable readers
"""
