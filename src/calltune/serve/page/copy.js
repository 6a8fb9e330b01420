// A request as commands that do the same outside this page.

import { $, announce } from "./dom.js";

const KEY = "CALLTUNE_API_KEY";

/** A shell command; single quotes hold whatever the request holds. */
export function curl(request, base, withKey) {
  const lines = [`curl ${quote(`${base}v1/chat/completions`)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  lines.push(`-d ${quote(JSON.stringify(request, null, 2))}`);
  return lines.join(" \\\n  ") + "\n";
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A Python script with the openai client. */
export function python(request, base, withKey) {
  const { constrained, ...known } = request;
  const rows = Object.entries(known).map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (constrained !== undefined) rows.push(`    extra_body=${literal({ constrained }, 4)},`);
  const key = withKey ? `os.environ["${KEY}"]` : '"unused"';
  return `${withKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(`${base}v1`)}, api_key=${key})
reply = client.chat.completions.create(
${rows.join("\n")}
)
message = reply.choices[0].message
if message.content:
    print(message.content)
for call in message.tool_calls or []:
    print(call.function.name, call.function.arguments)
`;
}

/** A JSON value as Python writes it. A JSON string is a Python string already. */
export function literal(value, indent = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const parts = list
    ? value.map((item) => literal(item, indent + 4))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${literal(item, indent + 4)}`);
  const [open, close] = list ? "[]" : "{}";
  const line = parts.join(", ");
  if (line.length < 70 && !line.includes("\n")) return open + line + close;
  const pad = " ".repeat(indent);
  return `${open}\n${parts.map((part) => `${pad}    ${part},\n`).join("")}${pad}${close}`;
}

/** Into the clipboard; where the browser refuses that (plain HTTP from another machine), a box with the text. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`Copied as ${what}`);
    return true;
  } catch {
    $("copy-text").value = text;
    $("copy-box").showModal();
    $("copy-text").select();
    return false;
  }
}
