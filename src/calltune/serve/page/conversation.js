// The conversation: turns of a request and its answers, what each model is sent, and how calls lead on.

import { answerView } from "./answer_view.js";
import { execute, stream } from "./client.js";
import { $, announce, el, following } from "./dom.js";
import { isJson } from "./json.js";
import { finish, messages, newReply, take } from "./reply.js";
import { find } from "./tools.js";

const MOST_STEPS = 8; // replies of a turn that may run calls without a click
const SKIPPED = { content: JSON.stringify({ error: "the user refused this call; it was not done" }), error: false, by: "skipped" };
let turns = [];
const running = new Set(); // abort controllers of what streams or runs now
let changed = () => {};

/** `told` is called whenever something starts or ends to run. */
export const onChange = (told) => (changed = told);
export const busy = () => running.size > 0;

export function stop() {
  for (const control of running) control.abort();
}

export function clear() {
  stop();
  turns = [];
  $("turns").replaceChildren();
}

/** Ask every model of `models` ([{name, side}]) the same request. */
export function ask(text, models, tools, settings) {
  skipOpenCalls();
  const grid = el("div", { class: "answers" });
  const node = el("section", { class: "card turn" }, el("h2", {}, el("span", { class: "sr", text: "Request: " }), text), grid);
  const turn = { text, tools, settings, answers: [] };
  turns.push(turn);
  for (const { name, side } of models) {
    const view = answerView(name, side);
    grid.append(view.node);
    turn.answers.push({ model: name, side, view, steps: [], turn });
  }
  $("turns").append(node);
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
  for (const answer of turn.answers) advance(answer);
}

/** Calls that were never run get a result that says so: a model must not be left without one. */
function skipOpenCalls() {
  for (const { answers } of turns) {
    for (const step of answers.flatMap((answer) => answer.steps)) {
      for (const call of step.reply.calls) {
        if (call.state === "ready") Object.assign(call, { state: "done", result: SKIPPED });
      }
      step.draw();
    }
  }
}

/** The messages of a model so far. A turn in which it was not asked counts with the first model's answer. */
function history(answer) {
  const sent = [];
  for (const turn of turns) {
    const own = turn.answers.find((other) => other.side === answer.side) ?? turn.answers[0];
    const said = own.steps.flatMap((step) => messages(step.reply));
    if (said.length || turn === answer.turn) sent.push({ role: "user", content: turn.text }, ...said);
    if (turn === answer.turn) break;
  }
  return sent;
}

/** Let the model write its next reply. */
async function advance(answer) {
  const { turn, model } = answer;
  const request = { model, messages: history(answer), ...turn.settings };
  if (turn.tools.length) request.tools = turn.tools;
  const reply = newReply(request);
  const step = { reply };
  const act = (call) => ({
    run: (confirmed) => run(answer, step, call, confirmed),
    give: (content) => settle(answer, step, call, { content, error: false, by: "user" }),
    skip: () => settle(answer, step, call, SKIPPED),
  });
  const again = () => {
    answer.steps.splice(answer.steps.indexOf(step), 1);
    step.remove();
    advance(answer);
  };
  answer.steps.push(step);
  Object.assign(step, following(() => answer.view.add(reply, { tool: find, act, again })));
  await working(async (signal) => {
    try {
      for await (const chunk of stream(request, signal)) {
        take(reply, chunk);
        following(step.draw);
      }
      finish(reply, "done");
    } catch (error) {
      if (error.name === "AbortError") finish(reply, "stopped");
      else finish(reply, "failed", error.message);
    }
    following(step.draw);
  });
  tell(reply, model);
  if (reply.state === "done") runPure(answer, step);
}

/** Do something that the stop button ends. */
async function working(work) {
  const control = new AbortController();
  running.add(control);
  changed();
  try {
    await work(control.signal);
  } finally {
    running.delete(control);
    changed();
  }
}

function tell(reply, model) {
  const names = reply.calls.filter((call) => call.state === "ready").map((call) => call.name);
  if (reply.state === "failed") announce(reply.error);
  else if (names.length) announce(`${model} calls ${names.join(", ")}. It is not run yet.`);
  else announce(reply.state === "stopped" ? "Stopped" : `${model} answers: ${reply.content}`);
}

/** Run what may run without a click, where that is switched on. */
function runPure(answer, step) {
  if (!$("auto").checked || answer.steps.length > MOST_STEPS) return;
  for (const call of step.reply.calls) {
    const tool = find(call.name);
    if (call.state === "ready" && tool?.pure && !tool.pasted) run(answer, step, call, false);
  }
}

async function run(answer, step, call, confirmed) {
  Object.assign(call, { state: "running", note: "" });
  step.draw();
  await working(async (signal) => {
    let result;
    try {
      const { content, error } = await execute(call.name, call.text, confirmed, signal);
      result = { content, error, by: "server" };
    } catch (error) {
      if (error.status !== 400 && error.status !== 404) return notRun(step, call, error);
      // The call's own fault, so the model is told.
      result = { content: isJson(error.said) ? error.said : JSON.stringify({ error: error.said }), error: true, by: "server" };
    }
    return settle(answer, step, call, result);
  });
}

/** The call is as it was: the user stopped it, or the server did not do what it was asked. */
function notRun(step, call, error) {
  Object.assign(call, { state: "ready", note: error.name === "AbortError" ? "" : error.message });
  step.draw();
}

/** A call has its result; when all of the reply have, the model goes on. */
function settle(answer, step, call, result) {
  Object.assign(call, { state: "done", result });
  following(step.draw);
  announce(`Result of ${call.name}: ${result.content}`);
  if (!turns.includes(answer.turn)) return;
  if (step.reply.calls.every((other) => other.state === "done" || other.state === "broken")) advance(answer);
}
