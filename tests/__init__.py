"""Tests of the gateway and of its publishers."""

import os
import sys

# Dozens of processes of one run import the same modules. The first writes their bytecode, and the others need not compile them.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
