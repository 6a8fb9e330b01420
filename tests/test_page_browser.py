"""The server's page in Chromium, over the real app; what the model says is written in each test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import page_place
import pytest
from page_place import Gate, Running, Scripted, call_text, functions, start

from calltune.serve.work import QueueFull

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = pytest.mark.browser
PLAN = "The user wants the weather: get_weather."
NASTY = "It's \"quoted\" \\n $HOME `date` 100% 'a'b\n<b onclick=\"x='1'\"> né \U0001f600 \u2028 \\ EOF\nEOF"


@pytest.fixture(scope="module")
def browser():
    path = page_place.chromium()
    if not path:
        pytest.skip("no Chromium or Chrome found: install Debian's `chromium` to run the browser tests")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Place:
    """A page, the model behind it, and what the page did beside: console lines and addresses of other hosts."""

    page: Page
    worker: Scripted
    server: Running
    noise: list[str]

    def ask(self, text: str) -> None:
        self.page.get_by_label("Request", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def answer(self, model: str = "assistant") -> Locator:
        """The model's newest answer."""
        return self.page.get_by_role("article", name=f"Answer of {model}", exact=True).last


@pytest.fixture
def place(browser: Browser):
    """Opens the page over a script: `place(script, tools=..., key=..., models=..., **context)`."""
    opened = []

    def open_page(script, tools=None, key=None, models=("assistant", "assistant:base"), loads=True, **context):
        worker = Scripted(script, models)
        server = start(worker, functions() if tools is None else tools, key)
        tab = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **context)
        page = tab.new_page()
        page.set_default_timeout(10_000)
        noise: list[str] = []
        page.on("console", lambda line: noise.append(line.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(server.url) or noise.append(asked.url))
        page.goto(server.url)
        if loads:
            expect(page.locator("#send")).to_be_enabled()
        opened.append((tab, server))
        return Place(page, worker, server, noise)

    yield open_page
    for tab, server in opened:
        tab.close()
        server.stop()


def weather(work) -> str:
    """Calls get_weather, and answers after its result."""
    if work.messages[-1].role == "tool":
        return f"It says {work.messages[-1].content}"
    return call_text("get_weather", '{"city": "Lisbon"}', PLAN)


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


def test_a_function_that_changes_something_asks_first(place):
    def script(work):
        last = work.messages[-1]
        return (
            f"Told: {last.content}"
            if last.role == "tool"
            else call_text("book_table", '{"name": "Ada", "guests": 2}')
        )

    page_place.booked.clear()
    on = place(script)
    on.page.get_by_label("Run pure functions without a click").check()
    on.ask("Book a table")
    expect(on.answer()).to_contain_text("may change something outside this page")
    on.button("Do not run book_table").click()
    expect(on.answer()).to_contain_text('Told: {"error":"the user refused this call; it was not done"}')
    assert page_place.booked == []
    on.ask("Book it, please")
    on.button("Run book_table").click()
    expect(on.answer()).to_contain_text('Told: "<i>booked</i> for 2"')
    assert page_place.booked == ["Ada"]


def test_a_request_leaves_no_call_without_a_result(place):
    on = place(weather)
    on.ask("Weather?")
    expect(on.button("Run get_weather")).to_be_visible()
    on.ask("Never mind")
    expect(on.button("Run get_weather")).to_have_count(1)
    roles = [message.role for message in on.worker.asked[1].messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert "refused this call" in on.worker.asked[1].messages[2].content


def test_pure_functions_run_by_themselves_where_that_is_on_but_not_for_ever(place):
    on = place(lambda work: call_text("get_weather", '{"city": "Lisbon"}'))
    on.page.get_by_label("Run pure functions without a click").check()
    on.ask("Weather?")
    expect(on.button("Run get_weather")).to_be_visible()  # a model that calls and calls is stopped
    assert len(on.worker.asked) == 9


def test_long_numbers_reach_function_and_model_as_written(place):
    number = "12345678901234567890"
    on = place(
        lambda w: "ok" if w.messages[-1].role == "tool" else call_text("order_status", f'{{"number": {number}}}')
    )
    on.ask("Where is it?")
    expect(on.answer()).to_contain_text(f'"number": {number}')
    on.button("Run order_status").click()
    expect(on.answer()).to_contain_text(f'result{{\n  "number": {number}')
    expect(on.answer()).to_contain_text("ok")
    assert on.worker.asked[1].messages[1].calls[0].arguments == {"number": int(number)}
    assert json.loads(on.worker.asked[1].messages[2].content)["number"] == int(number)


def test_the_functions_own_refusal_goes_to_the_model_and_the_servers_does_not(place):
    def script(work):
        last = work.messages[-1]
        return "I see." if last.role == "tool" else call_text("get_weather", '{"city": 5}')

    on = place(script)
    on.ask("Weather?")
    on.page.route("**/api/execute", lambda route: route.abort())
    on.button("Run get_weather").click()
    expect(on.answer()).to_contain_text("The server does not answer")
    assert len(on.worker.asked) == 1
    on.page.unroute("**/api/execute")
    on.button("Run get_weather").click()
    expect(on.answer()).to_contain_text("I see.")
    expect(on.answer().locator(".result.wrong")).to_contain_text("city")
    assert "city" in on.worker.asked[1].messages[-1].content


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


PASTED = {"type": "function", "function": {"name": "find_book", "description": "Finds a book.", "parameters": {
    "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}}}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), [
    ("[{'name': 'x'}]", "Line 1, column 3: found \"'\", expected a name in double quotes"),
    ('[\n  {"name": "x",}\n]', "Line 2, column 15: no comma before \"}\""),
    ('[{"name": "x"}', "Line 1, column 15: the text ends"),
    ('[{"name": "x", "strict": True}]', "Line 1, column 26: True is not JSON (true)"),
    ('[]', "Line 1, column 1: the list is empty"),
    ('[3]', "Line 1, column 2: a tool must be an object"),
    ('[{"type": "function",\n "function": {}}]', "Line 2, column 14: a tool needs a “name”, a text"),
    ('{"name": "get_weather"}', "Line 1, column 10: there is a function get_weather already"),
    ('{"name": "x", "parameters": {"required": "a"}}', "Line 1, column 42: “required” must be a list of names"),
])  # fmt: skip
def test_wrong_pasted_tools_are_told_where_they_are_wrong(place, text, words):
    on = place(weather)
    on.page.get_by_text("Paste functions as JSON").click()
    box = on.page.get_by_label("OpenAI’s tools")
    box.fill(text)
    on.button("Use these").click()
    expect(on.page.locator("#pasted-note")).to_contain_text(words)
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(on.page.locator("#tools li")).to_have_count(3)
    assert on.noise == []


def test_pasted_tools_are_offered_and_their_results_typed(place):
    def script(work):
        last = work.messages[-1]
        return f"Told: {last.content}" if last.role == "tool" else call_text("find_book", '{"title": "Emma"}')

    on = place(script, tools=[])
    expect(on.page.locator("#no-tools")).to_be_visible()
    on.page.get_by_text("Paste functions as JSON").click()
    on.page.get_by_label("OpenAI’s tools").fill(json.dumps([PASTED]))
    expect(on.page.locator("#pasted-note")).to_have_text("1 function: find_book")
    on.button("Use these").click()
    on.ask("Find Emma")
    field = on.page.get_by_label("Result of find_book")
    expect(field).to_be_visible()
    expect(on.button("Run find_book")).to_have_count(0)
    field.fill('{"shelf": 3}')
    on.page.keyboard.press("Enter")
    expect(on.answer()).to_contain_text('Told: {"shelf": 3}')
    assert [tool.to_openai() for tool in on.worker.asked[0].tools] == [PASTED]
    on.button("Remove the pasted ones").click()
    expect(on.page.locator("#tools li")).to_have_count(0)


def test_functions_can_be_left_out(place):
    on = place(lambda work: "Hello.")
    on.page.get_by_label("book_table").uncheck()
    expect(on.page.locator("#chosen")).to_have_text("2 of 3")
    on.ask("Hi")
    expect(on.answer()).to_contain_text("Hello.")
    on.button("None").click()
    on.ask("Hi")
    expect(on.answer()).to_contain_text("Hello.")
    assert [len(work.tools) for work in on.worker.asked] == [2, 0]


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
