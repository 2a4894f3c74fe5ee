"""The description says every status a route can answer with, and describes bodies that routes parse themselves."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

COMMON = {"401", "403", "413", "500", "503", "504"}
EXPECTED = {
    ("post", "/v1/moderations"): {"200", "400", "404", "415", "422", "429"} | COMMON,
    ("post", "/v1/embeddings"): {"200", "400", "404", "415", "422", "429"} | COMMON,
    ("post", "/v1/posts"): {"200", "202", "400", "409", "415", "422", "429"} | COMMON,
    ("get", "/v1/posts/{post_id}"): {"200", "202", "400", "404"} | COMMON,
    ("delete", "/v1/posts/{post_id}"): {"204", "400", "404", "409"} | COMMON,
    ("post", "/v1/streams/{stream_id}/clips"): {"200", "400", "404", "409", "415", "422", "429"} | COMMON,
    ("post", "/v1/streams/{stream_id}/audio"): {"200", "400", "404", "409", "415", "422", "429"} | COMMON,
    ("get", "/v1/streams/{stream_id}"): {"200", "400", "404"} | COMMON,
    ("get", "/v1/streams/{stream_id}/clips"): {"200", "400", "404"} | COMMON,
    ("delete", "/v1/streams/{stream_id}"): {"204", "400", "404"} | COMMON,
    ("post", "/v1/gate"): {"200", "400", "404", "409", "415", "429"} | COMMON,
    ("post", "/v1/reviews:claim"): {"200", "400", "415"} | COMMON,
    ("get", "/v1/reviews/{review_id}"): {"200", "400", "404"} | COMMON,
    ("post", "/v1/reviews/{review_id}/decision"): {"200", "400", "404", "409", "415"} | COMMON,
    ("post", "/v1/reviews/{review_id}/undo"): {"200", "400", "404", "409"} | COMMON,
    ("post", "/v1/search"): {"200", "400", "404", "409", "415", "422", "429"} | COMMON,
    ("post", "/v1/search:batch"): {"200", "400", "404", "415", "429"} | COMMON,
    ("get", "/v1/indexes"): {"200", "400", "404", "429"} | COMMON,
    ("get", "/v1/indexes/{partition}"): {"200", "400", "404", "429"} | COMMON,
    ("post", "/v1/indexes:reconcile"): {"200", "400", "404", "429"} | COMMON,
    ("put", "/v1/indexes/{partition}/items/{item_id}"): {"200", "400", "404", "409", "415", "429"} | COMMON,
    ("delete", "/v1/indexes/{partition}/items/{item_id}"): {"204", "400", "404", "409", "429"} | COMMON,
    ("post", "/v1/indexes/{partition}/items:batch"): {"200", "400", "404", "409", "415", "429"} | COMMON,
    ("post", "/v1/references"): {"201", "400", "404", "409", "415", "422", "429"} | COMMON,
    ("post", "/v1/references:batch"): {"200", "400", "404", "415", "429"} | COMMON,
    ("get", "/v1/references"): {"200", "400"} | COMMON,
    ("get", "/v1/references/{reference_id}"): {"200", "400", "404"} | COMMON,
    ("patch", "/v1/references/{reference_id}"): {"200", "400", "404", "415"} | COMMON,
    ("delete", "/v1/references/{reference_id}"): {"204", "400", "404"} | COMMON,
    ("get", "/v1/hash-lists"): {"200", "400"} | COMMON,
    ("post", "/v1/hash-lists/{name}"): {"200", "400"} | COMMON,
    ("get", "/v1/hash-lists/{name}"): {"200", "400", "404"} | COMMON,
    ("delete", "/v1/hash-lists/{name}"): {"204", "400", "404"} | COMMON,
    ("post", "/v1/shown"): {"204", "400", "404", "415", "422", "429"} | COMMON,
    ("post", "/v1/shown:check"): {"200", "400", "404", "415", "422", "429"} | COMMON,
    ("get", "/livez"): {"200", "500"},
    ("get", "/readyz"): {"200", "500", "503"},
}


@pytest.fixture
def described(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_every_status_stands_in_it(described: dict[str, Any]) -> None:
    found = {
        (method, path): set(operation["responses"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert found == EXPECTED


def test_every_error_has_the_one_shape(described: dict[str, Any]) -> None:
    for (method, path), statuses in EXPECTED.items():
        responses = described["paths"][path][method]["responses"]
        for status in statuses:
            if status[0] in "45" and (path, status) != ("/readyz", "503"):
                schema = responses[status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, status)


def test_no_reference_leads_nowhere(described: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert set(references(described)) <= known


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_bodies_are_described(described: dict[str, Any]) -> None:
    body = described["paths"]["/v1/posts"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert "media_base64" in described["components"]["schemas"]["PostRequest"]["properties"]
