"""Imported by the test run and by the process whose forks are its programs: each gateway computes a digest that takes 40 ms of processor time
on purpose, so that no secret is guessed from it. Here a single round makes it; programs that are started by themselves take the time.
"""

from gateway.auth import admin_keys, fingerprint

fingerprint.ITERATIONS = admin_keys.ITERATIONS = 1
