"""What every node shares: value types, errors, the encoder contract, batching, health, device choice."""
