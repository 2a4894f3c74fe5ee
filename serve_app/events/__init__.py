"""The event path: broker -> consumer -> graph -> one transaction -> offset; outbox -> publisher -> broker, webhooks."""
