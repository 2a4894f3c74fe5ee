"""`parakh doctor`: load every model, run one real pass of each, and say what is amiss and what mends it."""

from __future__ import annotations

import platform

import torch
from rich.console import Console

from deployments.runtime.device import cpu_has_bf16
from deployments.runtime.errors import ModelError
from deployments.runtime.values import ModelCard
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.nodes import encoder_cards
from serve_app.rendering import status_table


async def examine(config: AppConfig, console: Console) -> bool:
    """True where every node is ready and the fusion head fits the encoders."""
    console.print(f"profile {config.profile}: {config.profile_note}", highlight=False)
    gpus = f"{torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "no GPU"
    bf16 = "with" if cpu_has_bf16() else "without"
    console.print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {gpus}, CPU {bf16} bf16", highlight=False
    )
    nodes = LocalNodes(config)
    try:
        statuses = await nodes.status()
        console.print(status_table(statuses))
        ready = all(status.state == "ready" for status in statuses)
        return ready and await _head_fits(nodes, encoder_cards(statuses), console)
    finally:
        await nodes.close()


async def _head_fits(nodes: LocalNodes, cards: dict[str, ModelCard], console: Console) -> bool:
    try:
        await nodes.check_encoders(cards)
    except ModelError as error:
        console.print(f"[bold red]The fusion head does not fit the encoders:[/] {error}", highlight=False)
        return False
    return True
