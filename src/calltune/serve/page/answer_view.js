// The answer of one model to one request: its replies, one after another, with calls and results between.

import { callView } from "./call_view.js";
import { button, el, setText } from "./dom.js";
import { curl, copy, python } from "./copy.js";
import { getKey } from "./client.js";
import { figures } from "./reply.js";

const ENDS = { length: "cut off at the token limit", content_filter: "stopped by the server" };

/** `{node, add}`: the box of an answer; `add(reply, ...)` puts a reply into it and returns how to draw it. */
export function answerView(model, side) {
  const head = el("span", { class: "state" });
  const node = el("article", { class: `answer ${side}`, "aria-label": `Answer of ${model}` }, el("h3", {}, el("span", { text: model }), head));

  function add(reply, { tool, act, again }) {
    const view = replyView(reply, { tool, act, again });
    node.append(view.node);
    const draw = () => {
      setText(head, status(reply));
      node.setAttribute("aria-busy", String(reply.state === "waiting" || reply.state === "writing"));
      view.draw();
    };
    draw();
    return { draw, remove: () => view.node.remove() };
  }
  return { node, add };
}

function status(reply) {
  if (reply.state === "waiting") return "waiting";
  if (reply.state === "writing") return reply.calls.length ? "calls" : reply.content ? "answers" : "plans";
  if (reply.state === "stopped") return "stopped";
  if (reply.state === "failed") return "failed";
  if (reply.calls.some((call) => call.state === "running")) return "runs the call";
  return reply.calls.some((call) => call.state === "ready") ? "waits for you" : "done";
}

function replyView(reply, { tool, act, again }) {
  const plan = el("p", { class: "plan", hidden: true }, el("b", { text: "plan" }), " ", el("span"));
  const calls = el("div", { class: "calls" });
  const said = el("p", { class: "said", hidden: true });
  const note = el("div", { class: "note" });
  const foot = el("p", { class: "foot", hidden: true });
  const node = el("div", { class: "reply" }, plan, said, calls, note, foot);
  const views = new Map();
  let ended = false;

  function draw() {
    plan.hidden = !reply.thinking.trim();
    setText(plan.lastElementChild, reply.thinking.trim());
    said.hidden = !reply.content.trim();
    setText(said, reply.content.trim());
    node.classList.toggle("live", reply.state === "waiting" || reply.state === "writing");
    for (const call of reply.calls.filter(Boolean)) {
      if (!views.has(call)) {
        views.set(call, callView(call, tool, act(call)));
        calls.append(views.get(call).node);
      }
      views.get(call).draw();
    }
    if (ended || reply.state === "waiting" || reply.state === "writing") return;
    ended = true;
    note.replaceChildren(...endNotes(reply, again));
    foot.replaceChildren(...figures(reply).map((text) => el("span", { text })), el("span", {}, "copy as ", ...copies(reply.request)));
    foot.hidden = false;
  }
  return { node, draw };
}

function endNotes(reply, again) {
  if (reply.state === "failed") {
    return [el("p", { class: "reason", role: "alert", text: reply.error }), button("Try again", again, { class: "small" })];
  }
  if (reply.state === "stopped") return [el("p", { class: "quiet", text: "You stopped it here." })];
  if (ENDS[reply.finish]) return [el("p", { class: "reason", text: `The reply was ${ENDS[reply.finish]}.` })];
  return reply.calls.length || reply.content.trim() ? [] : [el("p", { class: "quiet", text: "An empty answer." })];
}

function copies(request) {
  const nodes = [["curl", curl], ["Python", python]].map(([what, write]) => {
    const node = button(what, async () => {
      const base = new URL(".", document.baseURI).href;
      if (!(await copy(write(request, base, Boolean(getKey())), what))) return;
      setText(node, "Copied");
      setTimeout(() => setText(node, what), 1500);
    }, { class: "link", "aria-label": `Copy this request as ${what}` });
    return node;
  });
  return [nodes[0], " or ", nodes[1]];
}
