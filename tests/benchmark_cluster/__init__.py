"""What one shard, one gateway process and one connection cost, for planning. Not tests: run them by hand, on a quiet machine.

python -m tests.benchmark_cluster [--seconds S] [--runs N] [--json]        publications and deliveries; 1 and 3 shards, 1, 2 and 4 gateways
python -m tests.benchmark_cluster connections [--count N] [--json]         memory and CPU of connections, channels and links; one gateway
python -m tests.benchmark_cluster plan [--json]                            both, and from them a plan for 1,000,000 clients, in Markdown

servers      Valkeys and gateways as processes, and the CPU and memory that a process has taken
subscribers  clients without a library, all in one process
publishing   publishers in a process of their own
scale        the first program
connections  the second
plan         the third
"""
