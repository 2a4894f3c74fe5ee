"""Clips of livestreams: what one costs beside the consumer it replaces, from broker to broker.

`clips` (sounds, messages) -> `servers` (broker, database) -> `sides` (the three contenders, each a process of its own:
`baseline`, `served`, driven over a pipe by `worker`) -> `rounds` (who runs when, what it cost) -> `__main__` (rows).
`floor` says what the hardware could do, `gate` what the voice gate saves and what it costs.
"""
