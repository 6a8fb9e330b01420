"""What the page says when something goes wrong: keys, queues, failures, limits, settings; and that nothing said
becomes HTML."""

from __future__ import annotations

import json

import pytest
from page_place import call_text

from calltune.serve.work import QueueFull

pytest.importorskip("playwright")
from page_browser import launched, opened, weather
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    yield from launched()


@pytest.fixture
def place(browser):
    yield from opened(browser)


def test_the_page_asks_for_the_key(place):
    on = place(lambda work: "Hello.", key="s3cret", loads=False)
    field = on.page.get_by_label("This server asks for an API key")
    expect(field).to_be_focused()
    for key in ("wrong", "s3cret"):
        expect(on.page.locator("#send")).to_be_disabled()
        field.fill(key)
        on.page.keyboard.press("Enter")
        if key == "wrong":
            expect(on.page.locator("#about")).to_contain_text("missing or wrong")
    expect(on.page.locator("#send")).to_be_enabled()
    expect(field).to_be_hidden()
    on.ask("Hi")
    expect(on.answer()).to_contain_text("Hello.")


def test_a_full_queue_is_told_and_tried_again(place):
    said: list = [QueueFull, "Hello."]
    on = place(lambda work: said.pop(0))
    on.ask("Hi")
    expect(on.answer().get_by_role("alert")).to_contain_text("The server is busy")
    on.button("Try again").click()
    expect(on.answer()).to_contain_text("Hello.")
    expect(on.answer().get_by_role("alert")).to_have_count(0)
    on.ask("And?")
    assert [message.role for message in on.worker.asked[0].messages] == ["user"]


def test_a_failure_in_the_middle_is_told(place):
    on = place(lambda work: ["<think>\nI thi", RuntimeError("boom")])
    on.ask("Hi")
    expect(on.answer().get_by_role("alert")).to_contain_text("The server failed at this request")
    expect(on.button("Try again")).to_be_visible()


def test_a_stream_that_breaks_off_is_told(place):
    on = place(weather)
    cut = 'data: {"choices": [{"index": 0, "delta": {"content": "It is"}, "finish_reason": null}]}\n\ndata: {"cho'
    on.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=cut, content_type="text/event-stream"))
    on.ask("Hi")
    expect(on.answer()).to_contain_text("It is")
    expect(on.answer().get_by_role("alert")).to_contain_text("The reply broke off before it was done")


def test_a_server_that_is_gone_is_told(place):
    on = place(weather)
    on.server.stop()
    on.ask("Hi")
    expect(on.answer().get_by_role("alert")).to_contain_text("The server does not answer. Is calltune serve still")


def test_a_reply_cut_at_its_limit_is_told(place):
    on = place(lambda work: 'One<tool_call>\n{"name": "get_weather", "arguments": {"city": "Li')
    on.page.get_by_label("Most tokens a reply").fill("1")
    on.ask("Hi")
    expect(on.answer()).to_contain_text("cut off at the token limit")


def test_wrong_settings_are_told_and_nothing_is_sent(place):
    on = place(weather)
    on.page.get_by_label("Temperature").fill("5")
    on.ask("Hi")
    expect(on.page.get_by_role("alert")).to_have_text("Temperature: a number from 0 to 2.")
    expect(on.page.get_by_label("Temperature")).to_be_focused()
    expect(on.page.get_by_label("Request", exact=True)).to_have_value("Hi")
    assert on.worker.asked == []


def test_what_a_model_says_is_never_html(place):
    bad = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
    on = place(lambda w: bad if w.messages[-1].role == "tool" else call_text("book_table", json.dumps(
        {"name": bad, "guests": 2}), bad))  # fmt: skip
    on.ask(bad)
    on.button("Run book_table").click()
    expect(on.answer().locator(".said:visible")).to_have_text(bad)
    expect(on.answer().locator(".plan:visible")).to_contain_text(bad)
    assert on.page.locator("main img, main script, main i, #tools i, #tools p b").count() == 0
    assert on.page.title() == "assistant – calltune serve"
    assert on.noise == []
