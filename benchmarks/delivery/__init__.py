"""The delivery drill: a broker full of events, and everything else killed while they are worked off.

traffic   what is sent, and what must become of it
servers   the broker and the database, as processes on loopback
grounds   the served application, and the second consumer beside it
killers   kill -9 and lost connections, at random, seeded
ledger    what the database, the outgoing topics and the committed offsets say at the end
"""
