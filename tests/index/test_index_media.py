"""A directory of media becomes a partition."""

from __future__ import annotations

from deployments.similarity.content import PartitionKey
from tests.index.index_world import NAME, World


def test_a_directory_of_media_is_embedded_and_indexed_by_file_name(world: World, png: bytes, wav: bytes) -> None:
    media = world.directory / "media"
    (media / "more").mkdir(parents=True)
    (media / "cat 1.png").write_bytes(png)
    (media / "more" / "tone.wav").write_bytes(wav)
    (media / "note.txt").write_text("नमस्ते दुनिया, आप कैसे हैं?", encoding="utf-8")
    (media / "broken.png").write_bytes(png[:60])
    (media / "latin.txt").write_bytes(b"\xff\xfe\xff")
    (media / ".hidden").write_bytes(b"x")
    told = world.parakh("build", "posts.any.any.any", media)
    assert told.code == 1  # something was refused
    assert "3 files indexed" in told.out
    assert "broken.png: " in told.err
    assert "latin.txt: The text file is not UTF-8." in told.err
    owner = world.opened()
    assert owner.scan(PartitionKey.parse("posts.any.image.visual")) == ["cat 1.png"]
    assert owner.scan(PartitionKey.parse("posts.any.audio.audio")) == ["more/tone.wav"]
    assert owner.scan(PartitionKey.parse("posts.hi.text.text")) == ["note.txt"]
    assert [id_.split("#")[0] for id_ in owner.scan(PartitionKey.parse("posts.any.image.pdq"))] == ["cat 1.png"]
    owner.close()


def test_the_partitions_name_picks_files_and_modality(world: World, png: bytes, wav: bytes) -> None:
    media = world.directory / "media"
    media.mkdir()
    (media / "cat.png").write_bytes(png)
    (media / "tone.wav").write_bytes(wav)
    told = world.parakh("build", "protected.any.image.visual", media)
    assert told.code == 1
    assert "tone.wav: It is of type audio, not image." in told.err
    (report,) = world.parakh("stats", "--json").reports
    assert (report["partition"], report["items"]) == ("protected.any.image.visual", 1)
    assert world.parakh("build", NAME, media, "--encoder", "clip@1").code == 2
    empty = world.directory / "empty"
    empty.mkdir()
    assert "holds no files" in world.parakh("build", NAME, empty).err
