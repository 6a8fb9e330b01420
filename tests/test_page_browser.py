"""The server's page in Chromium, over the real app: conversations, by mouse and keyboard, copied out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from page_place import Gate, call_text

pytest.importorskip("playwright")
from page_browser import PLAN, launched, opened, weather
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    yield from launched()


@pytest.fixture
def place(browser):
    yield from opened(browser)


def test_a_conversation_from_request_to_answer(place):
    on = place(weather)
    rows = on.page.locator("#tools li")
    expect(rows).to_have_text([re.compile(r"^get_weather\(city, unit\?\)pure"), re.compile("^order_status.*pure"),
                               re.compile(r"^book_table\(name, guests\)Book")])  # fmt: skip
    on.ask("What is the weather in Lisbon?")
    answer = on.answer()
    expect(answer).to_contain_text("plan " + PLAN)
    expect(answer.locator(".call")).to_contain_text('get_weathernot run yet{\n  "city": "Lisbon"\n}')
    on.button("Run get_weather").click()
    expect(answer).to_contain_text('It says {"city": "Lisbon", "degrees": 21, "unit": "celsius"}')
    expect(answer.locator("h3")).to_have_text("assistantdone")
    expect(answer.locator(".foot").last).to_contain_text("tokens")
    first, second = on.worker.asked
    assert [tool.name for tool in first.tools] == ["get_weather", "order_status", "book_table"]
    assert first.rules is not None and first.model == "assistant"
    user, said, result = second.messages
    assert (user.content, said.thinking, said.calls[0].arguments) == (
        "What is the weather in Lisbon?", PLAN, {"city": "Lisbon"})  # fmt: skip
    assert result.role == "tool" and json.loads(result.content)["degrees"] == 21
    assert on.noise == []


def test_plan_and_arguments_show_while_they_are_written(place):
    plan, half = Gate(), Gate()
    parts = ["<think>\nLet me see", plan, " it", '\n</think>\n<tool_call>\n{"name": "get_weather", "arguments": '
             '{"city": "Lis', half, 'bon"}}\n</tool_call>']  # fmt: skip
    on = place(lambda work: parts)
    on.ask("Weather?")
    answer = on.answer()
    expect(answer).to_contain_text("assistantplansplan Let me see")
    expect(answer).to_have_attribute("aria-busy", "true")
    plan.set()
    expect(answer).to_contain_text('callsplan Let me see itget_weatheris being written{"city": "L')
    half.set()
    expect(on.button("Run get_weather")).to_be_visible()
    expect(answer).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize("way", ["Escape", "Stop"])
def test_stop_ends_the_reply_at_the_server_too(place, way):
    gate = Gate()
    on = place(lambda work: ["<think>\nI think on", gate])
    on.ask("Weather?")
    expect(on.answer()).to_contain_text("I think")
    if way == "Escape":
        on.page.keyboard.press("Escape")
    else:
        on.button("Stop").click()
    expect(on.answer()).to_contain_text("You stopped it here.")
    assert on.worker.cancelled.wait(10)
    gate.set()
    expect(on.button("Send")).to_be_visible()


def test_a_request_leaves_no_call_without_a_result(place):
    on = place(weather)
    on.ask("Weather?")
    expect(on.button("Run get_weather")).to_be_visible()
    on.ask("Never mind")
    expect(on.button("Run get_weather")).to_have_count(1)
    roles = [message.role for message in on.worker.asked[1].messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert "refused this call" in on.worker.asked[1].messages[2].content


def test_the_grammar_can_be_switched_off(place):
    on = place(weather)
    on.page.get_by_role("switch", name="Grammar").uncheck()
    on.ask("Weather?")
    expect(on.answer()).to_contain_text("grammar off")
    assert on.worker.asked[0].rules is None


def test_compare_shows_both_models_each_with_its_own_past(place):
    on = place(lambda work: "I am the base." if work.model.endswith(":base") else weather(work))
    on.page.get_by_role("switch", name="Compare").check()
    on.ask("Weather?")
    expect(on.answer("assistant:base")).to_contain_text("I am the base.")
    on.button("Run get_weather").click()
    expect(on.answer()).to_contain_text("It says")
    on.ask("And now?")
    expect(on.page.get_by_role("article")).to_have_count(4)
    expect(on.button("Run get_weather")).to_be_visible()
    expect(on.answer("assistant:base")).to_contain_text("I am the base.")
    last = {work.model: [message.role for message in work.messages] for work in on.worker.asked}
    assert last == {"assistant:base": ["user", "assistant", "user"],
                    "assistant": ["user", "assistant", "tool", "assistant", "user"]}  # fmt: skip
    boxes = [on.answer(name).bounding_box() for name in ("assistant:base", "assistant")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]  # side by side


def test_without_an_adapter_there_is_nothing_to_compare_with(place):
    on = place(weather, models=("small",))
    expect(on.page.get_by_role("heading", name="small")).to_be_visible()
    expect(on.page.get_by_role("switch", name="Compare")).to_be_disabled()


def test_a_new_conversation_starts_from_nothing(place):
    on = place(lambda work: "Hello.")
    on.ask("Hi")
    expect(on.answer()).to_contain_text("Hello.")
    on.button("New conversation").click()
    expect(on.page.get_by_role("article")).to_have_count(0)
    expect(on.page.locator("#empty")).to_be_visible()
    on.ask("Hi again")
    expect(on.answer()).to_contain_text("Hello.")
    assert [message.content for message in on.worker.asked[1].messages] == ["Hi again"]


NASTY = "It's \"quoted\" \\n $HOME `date` 100% 'a'b\n<b onclick=\"x='1'\"> né \U0001f600 \u2028 \\ EOF\nEOF"


@pytest.mark.parametrize("key", [None, "s3cret"])
@pytest.mark.parametrize("what", ["curl", "Python"])
def test_a_copied_request_runs_as_it_is(place, tmp_path, what, key):
    pytest.importorskip("openai")
    on = place(lambda work: call_text("get_weather", json.dumps({"city": NASTY}), NASTY), key=key, loads=not key)
    if key:
        on.page.get_by_label("This server asks for an API key").fill(key)
        on.page.keyboard.press("Enter")
        expect(on.page.locator("#send")).to_be_enabled()
    on.page.get_by_label("Seed").fill("7")
    on.ask(NASTY)
    expect(on.button("Run get_weather")).to_be_visible()
    on.button("Run get_weather").click()
    expect(on.button("Run get_weather")).to_be_visible()  # the second call
    on.button(f"Copy this request as {what}").last.click()
    expect(on.page.locator("#status")).to_have_text(f"Copied as {what}")
    text = on.page.evaluate("navigator.clipboard.readText()")
    assert key is None or key not in text
    command = ["bash", "-c", text] if what == "curl" else [sys.executable, "-c", text]
    done = subprocess.run(command, env=os.environ | {"CALLTUNE_API_KEY": key or ""}, capture_output=True, text=True,
                          check=False, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    from_page, pasted = on.worker.asked[-2:]
    assert pasted == from_page
    assert pasted.messages[0].content == NASTY.strip()
    said = json.loads(done.stdout)["choices"][0]["message"]["tool_calls"][0] if what == "curl" else None
    arguments = said["function"]["arguments"] if said else done.stdout.removeprefix("get_weather ")
    assert json.loads(arguments) == {"city": NASTY}


def test_a_browser_that_refuses_to_copy_shows_the_text(place):
    on = place(weather)
    on.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    on.ask("Weather?")
    on.button("Copy this request as curl").click()
    box = on.page.get_by_role("dialog", name="Copy this")
    expect(box.get_by_label("Text to copy")).to_have_value(re.compile("^curl '"))
    expect(box.get_by_label("Text to copy")).to_be_focused()
    on.page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id")


def test_everything_goes_by_keyboard(place):
    on = place(weather)
    keys = on.page.keyboard
    assert focused(on.page) == "request"
    keys.press("Tab")
    keys.press("Space")
    expect(on.page.get_by_role("switch", name="Grammar")).not_to_be_checked()
    keys.press("Shift+Tab")
    keys.type("Weather?")
    keys.press("Shift+Enter")
    keys.type("In Lisbon")
    keys.press("Enter")
    run = on.button("Run get_weather")
    expect(run).to_be_visible()
    assert on.worker.asked[0].messages[0].content == "Weather?\nIn Lisbon"
    for _ in range(10):
        if focused(on.page) == "Run get_weather":
            break
        keys.press("Shift+Tab")
    expect(run).to_be_focused()
    keys.press("Enter")
    expect(on.answer()).to_contain_text("It says")
    assert focused(on.page) == "Call of get_weather"  # the button went; the focus did not fall back to the page's top
    for _ in range(10):
        if focused(on.page) == "request":
            break
        keys.press("Tab")
    expect(on.page.get_by_label("Request", exact=True)).to_be_focused()
    assert on.noise == []


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (360, "dark"), (800, "light"), (1280, "dark")])
def test_nothing_sticks_out_at_any_width_in_either_scheme(place, width, scheme):
    long = json.dumps({"city": "x" * 400, "unit": "celsius", "list": [list(range(60))] * 3})
    plan = "Averylongwordwithoutanyspace" * 20
    on = place(lambda w: plan if w.messages[-1].role == "tool" else call_text("get_weather", long, plan),
               viewport={"width": width, "height": 800}, color_scheme=scheme)  # fmt: skip
    on.page.get_by_role("switch", name="Compare").check()
    on.ask("y" * 300)
    expect(on.button("Run get_weather")).to_have_count(2)
    on.button("Run get_weather").first.click()
    expect(on.page.locator(".said:visible")).to_have_count(1)
    out = on.page.evaluate("""() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.sr, .skip')
        && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML)""")
    assert out == []
    assert on.page.evaluate("document.documentElement.scrollWidth") <= width
    ink = on.page.evaluate("getComputedStyle(document.body).color")
    assert ink == ("rgb(230, 235, 241)" if scheme == "dark" else "rgb(23, 32, 43)")
