"""Similarity search: which indexed content resembles this, how much, and may that be trusted.

In data-flow order: `values` (items, filters, neighbours) -> `spaces` (how a metric reads vectors and scores them
exactly) -> `vector_index` (the protocol) -> the backends: `embedded` (FAISS over a durable row store), `milvus`,
`brute` (the exact reference) -> `catalog`, `generations`, `partitions` (one index for each bank, language, content type
and modality, re-embedded beside the live one) -> `contents` (a post in and out), `searching`, `matching` (known bad,
protected, duplicate), `shown` (by a feed, lately) -> `service` -> `node` -> `deployment`.
"""
