"""A Serve config file on the command line: the options that name it, and its settings as AppConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError

from serve_app.config import AppConfig

LOCAL_CONFIG = Path(__file__).parent.parent / "cluster" / "serve" / "local.yaml"
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A Serve config file; default: cluster/serve/local.yaml.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Overrides `data_dir` of the config.")]


class ConfigError(Exception):
    """The configuration file is missing, is not YAML, or does not fit AppConfig."""


def load_config(path: Path | None, data_dir: Path | None = None) -> AppConfig:
    """The `args` of the first application in a Serve config file, or defaults where no file is given or shipped."""
    args: dict[str, object] = {}
    if path is None and LOCAL_CONFIG.exists():
        path = LOCAL_CONFIG
    if path is not None:
        args = _application_args(path)
    if data_dir is not None:
        args["data_dir"] = str(data_dir)
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "args"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from None


def _application_args(path: Path) -> dict[str, object]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(tree["applications"][0].get("args") or {})
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ConfigError(f"{path} is not a Serve config file: it has no `applications` list") from None
