"""One folder per node of the graph: the pure part first, the Ray Serve wrapper last (`deployment.py`).

A node folder imports `deployments.runtime` and `deployments.policy`, never another node folder,
and never `serve_app`. Only `deployment.py` files and `runtime/serving.py`, which they share, import Ray.
"""
