"""The embedded backend: FAISS segments over durable rows in SQLite."""
