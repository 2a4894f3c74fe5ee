"""`parakh demo`: real samples against a real server, verdicts printed, every expectation checked."""
