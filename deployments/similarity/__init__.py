"""Similarity search: which indexed content resembles this, how much, and may that be trusted.

In data-flow order: `values` (items, filters, neighbours) -> `spaces` (how a metric reads vectors and scores them
exactly) -> `vector_index` (the protocol) -> the backends: `embedded` (FAISS over a durable row store), `milvus`,
`brute` (the exact reference) -> partitions -> uses (duplicates, protected works, hash lists, recently shown).
"""
