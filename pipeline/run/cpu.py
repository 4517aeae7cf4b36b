"""How the libraries use the CPU: environment variables that they read when they are loaded."""

from __future__ import annotations

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Environment of the CPU threads: they look for work a thousand times, some microseconds, and then sleep.

A training step of `shapes` on 2 cores, alone and with a second training beside it: 150 and 150 ms where threads sleep
at once (waking them costs more than such small products), 107 and 208 ms like this, 86 and 445 ms where they spin as
long as libgomp lets them. What the environment says already is left as it is.
"""
