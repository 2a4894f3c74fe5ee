"""The target of `serve run` and of KubeRay's serveConfigV2: typed arguments in, the bound application out.

No `from __future__ import annotations` here: Serve reads the builder's annotation as it stands, to validate `args`.
"""

from ray.serve import Application

from serve_app.config import AppConfig
from serve_app.events.deployment import EventsDeployment
from serve_app.graph import bind_nodes, scaled
from serve_app.ingress import IngressDeployment


def build(args: AppConfig) -> Application:
    """`import_path: serve_app.main:build`; Serve validates `args` against AppConfig and names the bad field."""
    nodes = bind_nodes(args)
    if args.events.broker.kind != "off":
        nodes["events"] = scaled(EventsDeployment, args.events.replicas).bind(args, dict(nodes))
    return scaled(IngressDeployment, args.ingress.replicas).bind(args, nodes)
