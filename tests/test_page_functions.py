"""The page's functions: run, refused, left out, pasted as JSON."""

from __future__ import annotations

import json

import page_place
import pytest
from page_place import call_text

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
