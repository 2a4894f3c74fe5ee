"""The text node: a post's caption to one vector, through any Hugging Face encoder (XLM-R in both profiles)."""
