"""The similarity node's settings: where the index lies, who may own it, what the graph is without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from ray.serve._private.build_app import build_app

from serve_app.config import AppConfig
from serve_app.main import build


def test_the_index_lies_in_data_dir_unless_said_otherwise(tmp_path: Path) -> None:
    config = AppConfig.model_validate({"data_dir": str(tmp_path)})
    assert config.similarity.settings.directory == tmp_path / "similarity"
    told = {"data_dir": str(tmp_path), "similarity": {"settings": {"directory": "/elsewhere"}}}
    assert AppConfig.model_validate(told).similarity.settings.directory == Path("/elsewhere")


def test_one_process_owns_an_embedded_index() -> None:
    with pytest.raises(ValidationError, match="num_replicas"):
        AppConfig.model_validate({"similarity": {"replicas": {"num_replicas": 2}}})


@pytest.mark.parametrize("given", [[], {"settings": []}, {"settings": {"backend": "disk"}}, {"enable": True}])
def test_a_wrong_setting_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="similarity"):
        AppConfig.model_validate({"similarity": given})


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_in_the_graph_where_it_is_enabled(enabled: bool) -> None:
    built = build_app(build(AppConfig.model_validate({"similarity": {"enabled": enabled}})), name="parakh")
    assert ("similarity" in {deployment.name for deployment in built.deployments}) is enabled
