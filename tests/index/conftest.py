"""A configuration with fake encoders, and `parakh` in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from serve_app import cli
from serve_app.config import AppConfig
from tests.index.index_world import Told, World


@pytest.fixture
def world(
    tmp_path: Path, fake_config: AppConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> World:
    args = {
        "profile": "custom",
        "data_dir": str(tmp_path / "data"),
        "clip": {"encoder": {"model": "fake"}},
        "vggish": {"encoder": {"variant": "fake"}},
        "xlmr": {"encoder": {"model": "fake"}},
        "fusion": {"head": {"artefact": str(fake_config.fusion.head.artefact)}},
        "similarity": {"settings": {"overrides": [{"partition": "posts.*.*.visual", "index": {"train_from": 256}}]}},
    }
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"name": "parakh", "args": args}]}))

    def run(*args: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["parakh", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Told(int(ended.value.code or 0), out, err)

    return World(tmp_path, config, run)
