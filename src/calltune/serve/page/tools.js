// The list of functions: those that the server runs, and those that were pasted.

import { registered } from "./client.js";
import { $, announce, el, setText } from "./dom.js";
import { PlaceError, parse } from "./json.js";

const tools = []; // {name, description, parameters, pure, pasted, chosen}

/** What goes into a request: the chosen functions as OpenAI tools. */
export function chosen() {
  return tools.filter((tool) => tool.chosen).map(({ name, description, parameters }) => ({
    type: "function", function: { name, description, parameters },
  }));
}

/** The function of this name as the page knows it, or nothing. */
export const find = (name) => tools.find((tool) => tool.name === name);

export async function load() {
  const offered = await registered();
  add(offered.map((tool) => ({ ...known(tool), pure: tool.pure === true, pasted: false })));
}

function known(tool) {
  const { name, description = "", parameters = { type: "object", properties: {} } } = tool.function ?? tool;
  return { name, description, parameters };
}

function add(more) {
  tools.push(...more.map((tool) => ({ ...tool, chosen: true })));
  draw();
}

function remove(unwanted) {
  tools.splice(0, tools.length, ...tools.filter((tool) => !unwanted(tool)));
  draw();
}

function draw() {
  $("tools").replaceChildren(...tools.map(row));
  $("no-tools").hidden = tools.some((tool) => !tool.pasted);
  $("choose").hidden = tools.length < 2;
  $("forget").hidden = !tools.some((tool) => tool.pasted);
  count();
}

function count() {
  const n = tools.filter((tool) => tool.chosen).length;
  setText($("chosen"), tools.length ? `${n} of ${tools.length}` : "none");
}

function row(tool) {
  const box = el("input", { type: "checkbox", id: `tool-${tool.name}`, "aria-describedby": `about-${tool.name}` });
  box.checked = tool.chosen;
  box.addEventListener("change", () => {
    tool.chosen = box.checked;
    count();
  });
  const kind = tool.pasted ? "pasted" : tool.pure ? "pure" : "";
  const name = el("label", { for: box.id }, el("code", {}, el("b", { text: tool.name }), signature(tool)));
  return el("li", {}, box, el("div", {}, name, kind && el("span", { class: "tag", text: kind, title: MEANING[kind] }),
    el("p", { class: "quiet", id: `about-${tool.name}`, text: tool.description })));
}

const MEANING = {
  pure: "It changes nothing, so it runs without asking",
  pasted: "The server cannot run it: you type the result",
};

/** `(city, unit?)`: the parameters, those that may be left out with a question mark. */
function signature({ parameters }) {
  const required = new Set(parameters?.required ?? []);
  return `(${Object.keys(parameters?.properties ?? {}).map((key) => key + (required.has(key) ? "" : "?")).join(", ")})`;
}

/** Functions of a pasted text. Raises PlaceError with line and column. */
export function readTools(text) {
  const { value, offsets } = parse(text);
  const fail = (pointer, words) => {
    throw new PlaceError(text, offsets.get(pointer) ?? 0, words);
  };
  const isObject = (item) => item !== null && typeof item === "object" && !Array.isArray(item);
  const list = Array.isArray(value) ? value : [value];
  if (!list.length) fail("", "the list is empty");
  const names = new Set(tools.filter((tool) => !tool.pasted).map((tool) => tool.name));
  return list.map((item, i) => {
    let at = Array.isArray(value) ? `/${i}` : "";
    if (!isObject(item)) fail(at, "a tool must be an object");
    if ("function" in item) at += "/function";
    const tool = item.function ?? item;
    if (!isObject(tool)) fail(at, "“function” must be an object");
    if (typeof tool.name !== "string" || !tool.name) fail(offsets.has(`${at}/name`) ? `${at}/name` : at, "a tool needs a “name”, a text");
    if (names.has(tool.name)) fail(`${at}/name`, `there is a function ${tool.name} already`);
    if (tool.description !== undefined && typeof tool.description !== "string") fail(`${at}/description`, "“description” must be a text");
    if (tool.parameters !== undefined && !isObject(tool.parameters)) fail(`${at}/parameters`, "“parameters” must be a JSON Schema, an object");
    if (isObject(tool.parameters) && "properties" in tool.parameters && !isObject(tool.parameters.properties)) fail(`${at}/parameters/properties`, "“properties” must be an object");
    if (isObject(tool.parameters) && "required" in tool.parameters && !Array.isArray(tool.parameters.required)) fail(`${at}/parameters/required`, "“required” must be a list of names");
    names.add(tool.name);
    return { ...known(item), pure: false, pasted: true };
  });
}

/** The pasted text's tools, or null after telling what is wrong with it. */
function checked() {
  const box = $("pasted");
  let words = "";
  let found = null;
  try {
    found = box.value.trim() ? readTools(box.value) : null;
    words = found ? `${found.length} function${found.length === 1 ? "" : "s"}: ${found.map((tool) => tool.name).join(", ")}` : "";
  } catch (error) {
    if (!(error instanceof PlaceError)) throw error;
    words = error.message;
  }
  const wrong = words && !found;
  box.setAttribute("aria-invalid", String(Boolean(wrong)));
  $("pasted-note").className = wrong ? "reason" : "quiet";
  setText($("pasted-note"), words);
  return found;
}

function use() {
  const found = checked();
  if (!found) {
    if (!$("pasted").value.trim()) setText($("pasted-note"), "Paste a list of tools first.");
    $("pasted").focus();
    return;
  }
  remove((tool) => tool.pasted);
  add(found);
  announce(`${found.length} pasted functions are in the list`);
}

function all(on) {
  for (const tool of tools) tool.chosen = on;
  draw();
}

export function start() {
  let timer;
  $("pasted").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(checked, 250);
  });
  $("use").addEventListener("click", use);
  $("forget").addEventListener("click", () => {
    remove((tool) => tool.pasted);
    $("pasted").focus();
  });
  $("all").addEventListener("click", () => all(true));
  $("none").addEventListener("click", () => all(false));
  draw();
}
