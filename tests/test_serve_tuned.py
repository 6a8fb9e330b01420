"""A tuned model's calls over HTTP, as OpenAI's client reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from serving import serving, worker_of

from calltune.caller import load
from calltune.serve.app import Options

openai = pytest.importorskip("openai")

RUN = os.environ.get("CALLTUNE_TEST_RUN")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not RUN, reason="needs the demo's run: CALLTUNE_TEST_RUN")]


@pytest.mark.parametrize("stream", [False, True])
def test_trap_t34_a_tuned_models_calls_are_calls(stream):
    """Its own template knows no tools, so that nothing of a format could be guessed from it. Not bound either."""
    caller = load(Path(RUN or "").resolve())
    assert "tool" not in (caller.loaded.tokenizer.inner.chat_template or "")
    tools = [tool.to_openai() for tool in caller.tools]
    asked = {"tools": tools, "max_tokens": 120, "extra_body": {"constrained": False},
             "messages": [{"role": "user", "content": "Set a timer for 25 minutes"}]}  # fmt: skip
    worker = worker_of(caller, "demo")
    with serving(worker, (), Options(format=caller.template.format)) as found:
        client = openai.OpenAI(base_url=found.api, api_key="none", max_retries=0)
        if stream:
            with client.chat.completions.stream(model="demo", **asked) as events:
                made = events.get_final_completion()
        else:
            made = client.chat.completions.create(model="demo", **asked)
    worker.close()
    (choice,) = made.choices
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("set_timer", {"minutes": 25})
