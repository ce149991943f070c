"""``gateway bench``: what this installation can do on this machine, measured and drawn.

results   what a run found: figures, series, the machine; their JSON
"""
