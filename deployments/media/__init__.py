"""Media node: bytes or a URL in; frames, sound and a status per modality out.

Order: `url_guard` -> `fetch` -> `decoder` (parent) -> `worker` (killable child) -> `decode` -> `image` or `container`.
"""
