"""``gateway doctor``: what would be refused, cut off, slow or lost, by which setting, and the line that changes it.

diagnosis      findings, their weights, and how they are printed
examination    what the command runs, part by part
access_check   a token, an origin and a channel: what the configuration would refuse
valkey_check   what a Valkey's own settings and counters show; ``gateway check`` prints the gravest of it too
clock_check    whether clocks agree
machine_check  descriptors and kernel limits, beside ``limits.connections``
target         where requests go: a URL, taken apart
probes         what is sent through a proxy: requests, a WebSocket, a stream
proxy_check    what these probes show of the proxy
proxy_lines    the lines of nginx, Caddy and others that mend it
"""
