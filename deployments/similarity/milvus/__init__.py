"""The backend for the cluster: collections of a Milvus server."""
