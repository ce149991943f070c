"""What asyncio does not have.

tasks     tasks that nobody awaits, held and logged
wheel     one timer for all connections of a process
backoff   how long to wait before the next attempt
"""
