"""The command line as a user types it: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.policy.policy import CATEGORIES
from serve_app.config import AppConfig


@pytest.fixture
def config_file(tmp_path: Path, fake_config: AppConfig) -> Path:
    args = {
        "profile": "custom",
        "data_dir": str(tmp_path / "data"),
        "clip": {"encoder": {"model": "fake"}},
        "vggish": {"encoder": {"variant": "fake"}},
        "xlmr": {"encoder": {"model": "fake"}},
        "fusion": {"head": {"artefact": str(fake_config.fusion.head.artefact)}},
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [{"name": "parakh", "args": args}]}))
    return path


def parakh(*args: str | Path, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    chosen = ["--config", str(config)] if config else []
    command = [sys.executable, "-m", "serve_app.cli", *map(str, args), *chosen]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_files_get_verdicts_and_a_refused_one_says_why(
    tmp_path: Path, config_file: Path, png: bytes, wav: bytes
) -> None:
    files = {"cat.png": png, "tone.wav": wav, "note.txt": "नमस्ते दुनिया, आप कैसे हैं?".encode(), "bad.mp4": b"not media"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = parakh("moderate", *(tmp_path / name for name in files), tmp_path / "gone.jpg", "--json", config=config_file)
    assert told.returncode == 1, told.stderr  # something was refused
    rows = {Path(row["file"]).name: row for row in map(json.loads, told.stdout.splitlines())}
    assert rows["cat.png"]["modalities"]["visual"]["frames"] == 1
    assert rows["tone.wav"]["modalities"]["audio"]["status"] == "ok"
    assert rows["note.txt"]["language"] == {"tag": "hi", "identified": True, "confidence": pytest.approx(1, abs=0.3)}
    assert rows["bad.mp4"]["error"]["code"] == "unsupported_media"
    assert "cannot be read" in rows["gone.jpg"]["error"]["message"]


def test_a_person_gets_a_table_and_the_models_worth(tmp_path: Path, config_file: Path, png: bytes) -> None:
    (tmp_path / "cat.png").write_bytes(png)
    told = parakh("moderate", tmp_path / "cat.png", config=config_file)
    assert told.returncode == 0, told.stderr
    assert "Verdicts" in told.stdout
    assert "(random)" in told.stdout  # the fakes' weights are named for what they are
    assert "Custom profile" in told.stdout


def test_keys_are_made_listed_and_revoked(config_file: Path) -> None:
    made = parakh("keys", "create", "ingest team", "--scope", "ingest", "--scope", "read", config=config_file)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("pk_")
    key_id, secret = key.split("_")[1], key.split("_", 2)[2]
    listed = parakh("keys", "list", config=config_file).stdout
    assert key_id in listed
    assert "live" in listed
    assert secret not in listed
    assert parakh("keys", "revoke", key_id, config=config_file).returncode == 0
    assert "revoked" in parakh("keys", "list", config=config_file).stdout
    assert parakh("keys", "revoke", "nosuchkey", config=config_file).returncode == 1
    assert parakh("keys", "create", "x", "--scope", "root", config=config_file).returncode == 2


def test_a_head_is_trained_from_labelled_posts(tmp_path: Path, config_file: Path, png: bytes) -> None:
    (tmp_path / "cat.png").write_bytes(png)
    (tmp_path / "broken.png").write_bytes(png[:50])
    rows: list[dict[str, Any]] = [
        {"post_id": f"p{n}", "label": CATEGORIES[n % 7], "caption": f"{CATEGORIES[n % 7]} words number {n}"}
        for n in range(140)
    ]
    rows[0]["media"] = "cat.png"
    rows.append({"post_id": "broken", "label": "safe", "media": "broken.png"})
    table = tmp_path / "posts.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "head"
    trained = parakh("train-fusion", table, tmp_path / "new-head", "--epochs", "2", config=config_file)
    assert trained.returncode == 0, trained.stderr
    assert "140 posts embedded; left out: {'undecodable_media': 1}" in trained.stdout
    assert "held-out accuracy" in trained.stdout
    card = json.loads((tmp_path / "new-head" / "card.json").read_text())
    assert card["weights"] == "trained-here"
    assert card["encoders"]["text"]["name"] == "fake-text"
    again = parakh("train-fusion", table, tmp_path / "new-head", config=config_file)
    assert again.returncode == 2
    assert "holds an artefact already" in again.stderr
    assert output.exists()  # the fixture's own head was left alone


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"post_id": "p", "label": "safe"}', "row 1: there is neither media nor a caption"),
        ('{"post_id": "p", "caption": "x"}', "row 1: label is missing"),
        ("{not json", "line 1 is not a JSON object"),
        ('["p", "safe", "x"]', "line 1 is not a JSON object"),
    ],
)
def test_a_bad_table_is_refused_by_row(tmp_path: Path, config_file: Path, content: str, complaint: str) -> None:
    table = tmp_path / "posts.jsonl"
    table.write_text(content)
    told = parakh("train-fusion", table, tmp_path / "out", config=config_file)
    assert told.returncode == 2
    assert complaint in told.stderr
    assert not (tmp_path / "out").exists()


def test_doctor_finds_all_well_with_fakes(config_file: Path) -> None:
    told = parakh("doctor", config=config_file)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "fake-text" in told.stdout


def test_a_missing_model_is_an_error_with_the_command_that_mends_it(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello there")
    told = parakh("moderate", tmp_path / "note.txt", "--data-dir", tmp_path / "empty")
    assert told.returncode == 1
    assert "parakh models prepare" in told.stderr
    assert "Traceback" not in told.stderr
    assert parakh("models", "list", "--data-dir", tmp_path / "empty").returncode == 1
    assert parakh("doctor", "--data-dir", tmp_path / "empty").returncode == 1


def test_a_hold_is_listed_and_released(config_file: Path) -> None:
    assert "Legal holds" in parakh("holds", "list", config=config_file).stdout
    refused = parakh("holds", "release", "p1", config=config_file)
    assert (refused.returncode, "under no hold" in refused.stderr) == (1, True)


@pytest.mark.parametrize("command", [["moderate", "x.png"], ["doctor"], ["serve"], ["keys", "list"]])
def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("applications: [{args: {profile: local, clip: {encoder: {modell: x}}}}]")
    told = parakh(*command, config=file)
    assert told.returncode == 2
    assert "clip.encoder.modell" in told.stderr
    assert "Traceback" not in told.stderr
