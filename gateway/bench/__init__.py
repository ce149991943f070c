"""``gateway bench``: what this installation can do on this machine, measured and drawn.

What measures:

bench_run        one run: servers, load clients, parts, the report
parts            what is measured: each part is a module's generator
stage            what a part works with: a server, the load clients, how much is to be measured
findings         collects what the parts measure, and takes the median of the runs
measured_server  the gateway as a process of its own, with its Valkey; guardian: ends it with the bench; prefix_removal: its keys, too
peers            nchan and Centrifugo, where they are installed
addressing       what clients and publishers send to each of them; server_api: a call of its own
load_clients     the processes that load a server, as the bench sees them
load_process     such a process: load_orders says what it may be ordered, load_sockets subscribe, load_requests publish by HTTP, load_calls by FCALL
ready_sockets latencies process_usage machine_facts
                 sockets that have bytes, percentiles, CPU and memory of processes, the machine

What draws:

report           what a run found: figures, series, the machine; their JSON
comparison       two reports beside each other: what became worse, by more than noise
table            a report as one table for the terminal
page             a report as one HTML file, which loads nothing and runs no script
pictures         its lines, and its bars beside peers, each with its numbers as text
summary_picture  the one picture for a README
line_charts bar_charts axes svg amounts captions rows meanings
                 what these are drawn from: lines and bars, scales with round ticks, elements of SVG; numbers, dates and figures in words
"""
