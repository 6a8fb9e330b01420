// One reply of a model as it streams in: plan, calls, text, counts and times.

import { isJson } from "./json.js";

/** An empty reply to a request. Times are milliseconds of `performance.now()`. */
export function newReply(request) {
  return {
    request, thinking: "", content: "", calls: [], finish: null, usage: null, error: null,
    state: "waiting", // waiting, writing, done, stopped, failed
    sent: performance.now(), first: null, last: null,
  };
}

/** Add a streamed chunk. */
export function take(reply, chunk) {
  if (chunk.usage) reply.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { reasoning_content: thinking, content, tool_calls: calls } = choice.delta ?? {};
  if (thinking || content || calls?.length) {
    reply.last = performance.now();
    reply.first ??= reply.last;
    reply.state = "writing";
  }
  reply.thinking += thinking ?? "";
  reply.content += content ?? "";
  for (const part of calls ?? []) takeCall(reply, part);
  reply.finish = choice.finish_reason ?? reply.finish;
}

function takeCall(reply, part) {
  const index = part.index ?? reply.calls.length;
  const call = (reply.calls[index] ??= {
    id: `call_${index}`, name: "", text: "", result: null,
    state: "writing", // writing, ready, running, done, broken
    note: "", // why it could not be run
  });
  call.id = part.id ?? call.id;
  call.name += part.function?.name ?? "";
  call.text += part.function?.arguments ?? "";
}

/** The stream is over: `state` is done, stopped or failed. Calls become ready, or broken where they are not whole. */
export function finish(reply, state, error = null) {
  Object.assign(reply, { state, error });
  reply.calls = reply.calls.filter(Boolean);
  for (const call of reply.calls) {
    call.text ||= "{}";
    call.state = state === "done" && isObject(call.text) ? "ready" : "broken";
  }
}

const isObject = (text) => text.trimStart().startsWith("{") && isJson(text);

/** The messages that this reply and the results of its calls add to the conversation. */
export function messages(reply) {
  const calls = reply.calls.filter((call) => call.state !== "broken");
  if (!calls.length && !reply.content && !reply.thinking) return [];
  const message = { role: "assistant", content: reply.content || (calls.length ? null : "") };
  if (reply.thinking) message.reasoning_content = reply.thinking;
  if (calls.length) {
    message.tool_calls = calls.map((call) => ({
      id: call.id, type: "function", function: { name: call.name, arguments: call.text },
    }));
  }
  const results = calls.filter((call) => call.result).map((call) => ({
    role: "tool", tool_call_id: call.id, name: call.name, content: call.result.content,
  }));
  return [message, ...results];
}

/** Counts and times in words; empty while nothing came. */
export function figures(reply) {
  const parts = [];
  const made = reply.usage?.completion_tokens;
  if (made !== undefined) parts.push(`${made} token${made === 1 ? "" : "s"}`);
  const seconds = (reply.last - reply.first) / 1000;
  if (made > 1 && seconds > 0) parts.push(`${number((made - 1) / seconds)} tokens/s`);
  if (reply.first !== null) parts.push(`first after ${number((reply.first - reply.sent) / 1000)} s`);
  if (reply.usage) parts.push(`prompt ${reply.usage.prompt_tokens.toLocaleString("en")}`);
  if (reply.request.constrained === false) parts.push("grammar off");
  return parts;
}

const number = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(2));
