"""Similarity search: which indexed content resembles this, how much, and may that be trusted.

In data-flow order: `content` (what is asked and answered) -> `uses` (why one searches, and what counts) ->
`partitions` (which index holds what, and its generations) -> `vector_index` (the protocol of one index) -> its backends
`embedded` (FAISS over a durable row store), `milvus` and `brute` (the exact reference), over `values` (items, filters,
neighbours) and `spaces` (how a metric reads vectors and scores them exactly). `node` and `deployment` serve it all.
"""
