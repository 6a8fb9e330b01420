"""The description of the addresses whose bodies are read by hand, for /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from calltune.serve.protocol import CALLS, ChatRequest
from calltune.serve.tools_api import ExecuteRequest

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MESSAGE = {"type": "object", "required": ["role", "content", "refusal"], "properties": {
    "role": {"const": "assistant"}, "content": {"type": ["string", "null"]}, "refusal": {"type": "null"},
    "reasoning_content": {"type": ["string", "null"], "description": "the plan"},
    "tool_calls": CALLS | {"minItems": 1},
}}  # fmt: skip
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
COMPLETION = {
    "type": "object", "required": ["id", "object", "created", "model", "choices", "usage"], "properties": {
        "id": {"type": "string"}, "object": {"const": "chat.completion"}, "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "minItems": 1, "maxItems": 1, "items": {
            "type": "object", "required": ["index", "message", "logprobs", "finish_reason"], "properties": {
                "index": {"const": 0}, "message": _MESSAGE, "logprobs": {"type": "null"},
                "finish_reason": {"enum": ["stop", "length", "tool_calls"]}}}},
        "usage": {"type": "object", "required": list(_COUNTS), "properties": {
            name: {"type": "integer", "minimum": 0} for name in _COUNTS}},
        "notes": {"type": "array", "items": {"type": "string"}, "description": "what of the tools' or the reply's "
                  "schema was not enforced while decoding"},
    },
}  # fmt: skip
STATUSES = {"400": "wrong", "401": "no key", "403": "not let in", "404": "not there", "405": "another method",
            "413": "too large", "415": "another content type", "429": "busy", "431": "large headers",
            "500": "failed", "503": "stops"}  # fmt: skip


def describe(app: FastAPI, models: Sequence[str]) -> None:
    """Adds bodies and errors to what FastAPI knows by itself."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        found = plain()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Error"] = ERROR
        schemas["ChatCompletion"] = COMPLETION
        _add_body(found["paths"]["/v1/chat/completions"]["post"], schemas, ChatRequest)
        schemas["ChatRequest"]["properties"]["model"]["enum"] = list(models)
        _add_body(found["paths"]["/api/execute"]["post"], schemas, ExecuteRequest)
        chat = found["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]
        completion = {"schema": {"$ref": "#/components/schemas/ChatCompletion"}}
        chat["content"] = {"application/json": completion, "text/event-stream": {}}
        metrics = found["paths"]["/metrics"]["get"]["responses"]["200"]
        metrics["content"] = {"text/plain": {"schema": {"type": "string"}}}
        failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for methods in found["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                for status, words in STATUSES.items():
                    operation["responses"][status] = {"description": words, "content": failed}
        app.openapi_schema = found
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _add_body(operation: dict[str, Any], schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
