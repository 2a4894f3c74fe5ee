"""Configuration: typos, stale names and contradictions are found before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from serve_app.config import AppConfig
from serve_app.config_file import ConfigError, load_config
from serve_app.ingress import OpenDoorRefused, refuse_open_door
from serve_app.main import build

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "cluster" / "serve").glob("*.yaml"))


def unknown_keys(schema: type[BaseModel], raw: Any, where: str = "") -> Iterator[str]:
    """Serve's own schema ignores keys it does not know; these are they."""
    if not isinstance(raw, Mapping):
        return
    fields = {name: field.annotation for name, field in schema.model_fields.items()}
    for key, value in raw.items():
        if key not in fields:
            yield f"{where}{key}"
            continue
        for inner in _models_in(fields[key]):
            for item in value if isinstance(value, list) else [value]:
                yield from unknown_keys(inner, item, f"{where}{key}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def faults(raw: dict[str, Any]) -> list[str]:
    """Everything that is wrong with one Serve config of this application."""
    found = list(unknown_keys(ServeDeploySchema, raw))
    for application in ServeDeploySchema.model_validate(raw).applications:
        config = AppConfig.model_validate(application.args)
        built = build_app(build(config), name=application.name)
        known = {deployment.name for deployment in built.deployments}
        found += [f"no deployment named {d.name}" for d in application.deployments if d.name not in known]
        if raw["http_options"].get("request_timeout_s", 0) <= config.http.request_timeout_s:
            found.append("Serve's request_timeout_s must lie above the application's, or 408 comes before 504")
        refuse_open_door(config.http.auth, raw["http_options"]["host"])
    return found


@pytest.fixture
def local() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "cluster/serve/local.yaml").read_text())
    return tree


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_sound(path: Path) -> None:
    assert faults(yaml.safe_load(path.read_text())) == []


def test_a_key_that_serve_would_ignore_is_found(local: dict[str, Any]) -> None:
    local["applications"][0]["deployments"] = [{"name": "clip", "max_ongoing_requestz": 4}]
    assert faults(local) == ["applications.deployments.max_ongoing_requestz"]


def test_an_override_of_a_node_that_is_gone_is_found(local: dict[str, Any]) -> None:
    local["applications"][0]["deployments"] = [{"name": "resnet", "num_replicas": 2}]
    assert faults(local) == ["no deployment named resnet"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"profil": "local"}, "profil"),
        ({"clip": {"encoder": {"modell": "opennsfw"}}}, "clip.encoder.modell"),
        ({"profile": "huge"}, "profile"),
        ({"http": {"auth": "maybe"}}, "http.auth"),
        ({"clip": {"replicas": {"num_replicas": 0}}}, "clip.replicas.num_replicas"),
        ({"clip": []}, "clip"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(args: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        AppConfig.model_validate(args)
    assert named in {".".join(map(str, error["loc"])) for error in refused.value.errors()}


def test_a_profiles_models_are_not_mixed() -> None:
    with pytest.raises(ValidationError, match="a profile's models are not mixed"):
        AppConfig.model_validate(
            {"profile": "local", "clip": {"encoder": {"model": "open-clip", "checkpoint": "openai"}}}
        )


def test_the_full_profile_wants_a_fusion_head_of_its_own() -> None:
    with pytest.raises(ValidationError, match="train-fusion"):
        AppConfig.model_validate({"profile": "full", "vggish": {"encoder": {"checkpoint": "vggish.pth"}}})


def test_the_full_profile_names_the_published_models(tmp_path: Path) -> None:
    config = AppConfig.model_validate(
        {
            "profile": "full",
            "vggish": {"encoder": {"checkpoint": "vggish.pth"}},
            "fusion": {"head": {"artefact": str(tmp_path)}},
        }
    )
    assert (config.clip.encoder.model, config.clip.encoder.architecture, config.clip.encoder.checkpoint) == (
        "open-clip",
        "RN50",
        "openai",
    )
    assert config.xlmr.encoder.model == "FacebookAI/xlm-roberta-large"
    assert config.vggish.encoder.variant == "vggish"


def test_everything_lives_under_data_dir_unless_said_otherwise(tmp_path: Path) -> None:
    config = AppConfig.model_validate({"data_dir": str(tmp_path)})
    assert config.models_dir == tmp_path / "models"
    assert str(tmp_path) in config.records_url
    assert str(tmp_path) in config.media_store_url
    moved = AppConfig.model_validate({"data_dir": str(tmp_path), "records_url": "postgresql+asyncpg://db/parakh"})
    assert moved.records_url == "postgresql+asyncpg://db/parakh"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_an_open_door_is_allowed_on_loopback(host: str) -> None:
    refuse_open_door("off", host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_an_open_door_is_refused_anywhere_else(host: str) -> None:
    with pytest.raises(OpenDoorRefused, match="auth"):
        refuse_open_door("off", host)
    refuse_open_door("keys", host)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "applications: []\n", "a: [\n"])
def test_a_file_that_is_no_serve_config_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(file)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every setting's dotted name and description."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{prefix}{name}.")


def test_every_setting_is_described_in_code_and_docs() -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text()
    undescribed = [name for name, description in settings_of(AppConfig) if not description]
    missing = [name for name, _ in settings_of(AppConfig) if f"`{name}`" not in documented]
    assert undescribed == []
    assert missing == [], "run `python -m serve_app.reference > docs/configuration.md`"
