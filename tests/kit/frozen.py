"""Imported last by the process that forks: a collection of garbage in a fork, as each gateway makes at its start, passes over what is
loaded so far, and does not copy all of its memory.
"""

import gc

gc.collect()
gc.freeze()
