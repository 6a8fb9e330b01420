// A call on the page: name, arguments as they come, and what the user can do with it.

import { button, el, setText } from "./dom.js";
import { pretty } from "./json.js";

const STATES = {
  writing: "is being written", ready: "not run yet", running: "runs…", done: "", broken: "not complete",
};

/**
 * `{node, draw}` of a call. `tool(name)` finds the function, if the page knows it. `act` has `run(confirmed)`,
 * `give(text)` and `skip()`.
 */
export function callView(call, tool, act) {
  const state = el("span", { class: "quiet state" });
  const name = el("b");
  const args = el("pre", { class: "arguments" });
  const below = el("div", { class: "below" });
  const node = el("div", { class: "call", role: "group", tabindex: -1 }, el("p", { class: "line" }, el("code", {}, name), state), args, below);
  let drawn = "";

  function draw() {
    setText(name, call.name);
    node.setAttribute("aria-label", `Call of ${call.name}`);
    setText(state, STATES[call.state]);
    const text = call.state === "writing" ? call.text : pretty(call.text);
    if (args.textContent !== text) args.replaceChildren(...coloured(text));
    if (drawn === call.state) return;
    drawn = call.state;
    const held = below.contains(document.activeElement);
    below.replaceChildren(...actions(call, tool(call.name), act));
    if (held) node.focus({ preventScroll: true }); // the button is gone: stay where it was
  }
  return { node, draw };
}

function actions(call, tool, act) {
  if (call.state === "broken") return [el("p", { class: "reason", text: "This call is not whole, so it cannot run." })];
  if (call.state === "done") return [resultView(call.result)];
  if (call.state !== "ready") return [];
  if (!tool || tool.pasted) {
    const why = tool ? "The server has no code for this function." : "The model was not offered this function.";
    return [typed(call, act, why, true)];
  }
  const run = button("Run", () => act.run(!tool.pure), { class: "main", "aria-label": `Run ${call.name}` });
  const note = call.note && el("p", { class: "reason", role: "alert", text: call.note });
  if (tool.pure) return [note, run, typed(call, act, "", false)].filter(Boolean);
  const question = el("p", { class: "ask", text: `${call.name} may change something outside this page. Run it with these arguments?` });
  const no = button("Do not run", act.skip, { "aria-label": `Do not run ${call.name}` });
  return [note, question, run, no, typed(call, act, "", false)].filter(Boolean);
}

/** A field for a result that the user gives in place of the function. */
function typed(call, act, why, open) {
  const box = el("textarea", { rows: 2, spellcheck: "false", "aria-label": `Result of ${call.name}`, placeholder: '{"result": …}' });
  const send = () => act.give(box.value);
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  return el("details", { class: "typed", open }, el("summary", { text: "Type the result" }), why && el("p", { class: "quiet", text: why }),
    box, button("Send the result", send, { class: "small" }));
}

const FROM = { server: "result", user: "result, typed by you", skipped: "not run" };

function resultView({ content, error, by }) {
  const long = el("pre", {}, ...coloured(pretty(content)));
  return el("div", { class: error ? "result wrong" : "result" }, el("p", { class: "tag", text: error ? "error" : FROM[by] }), long);
}

/** JSON text as nodes, its keys quieter than its values. */
function coloured(text) {
  const parts = text.split(/("(?:[^"\\]|\\.)*")(?=\s*:)/);
  return parts.map((part, i) => (i % 2 ? el("span", { class: "key", text: part }) : part));
}
