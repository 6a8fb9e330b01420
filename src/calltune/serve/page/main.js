// Starts the page: asks the server what it has, and ties the controls to the conversation.

import * as client from "./client.js";
import * as conversation from "./conversation.js";
import { $, announce, setText } from "./dom.js";
import * as settings from "./settings.js";
import * as tools from "./tools.js";

const BASE = ":base";
const names = { main: "", base: "" };

/** What the server has; where it wants a key, the page asks for one. */
async function begin() {
  try {
    const list = await client.models();
    names.main = list.find((name) => !name.endsWith(BASE)) ?? list[0] ?? "";
    names.base = list.find((name) => name === names.main + BASE) ?? "";
    await tools.load();
  } catch (error) {
    if (!(error instanceof client.ServerError)) throw error;
    setText($("about"), error.message);
    $("about").className = "reason";
    return;
  }
  $("key-form").hidden = true;
  setText($("model"), names.main);
  setText($("about"), `${location.host} · ${names.base ? "a tuned model and its base" : "one model, no adapter"}`);
  $("about").className = "quiet";
  document.title = `${names.main} – calltune serve`;
  $("compare").disabled = !names.base;
  $("compare").parentElement.title = names.base ? "" : "The server has no base model beside this one: it was started without an adapter";
  $("send").disabled = false;
}

function askForKey() {
  if (!names.main) setText($("model"), "An API key is needed");
  $("key-form").hidden = false;
  $("key").focus();
}

function send() {
  const text = $("request").value.trim();
  if (!text || !names.main) return;
  if (conversation.busy()) {
    announce("The model is still at work. Escape stops it.");
    return;
  }
  const chosen = settings.read();
  if (!chosen) return;
  $("empty")?.remove();
  $("request").value = "";
  grow();
  const compare = $("compare").checked && names.base;
  const models = compare ? [{ name: names.base, side: "before" }, { name: names.main, side: "after" }] : [{ name: names.main, side: "after" }];
  conversation.ask(text, models, tools.chosen(), chosen);
}

function clear() {
  conversation.clear();
  $("turns").append(empty);
  $("request").focus();
  announce("A new conversation");
}

/** The field is as high as its text, up to a third of the window. */
function grow() {
  const box = $("request");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 3)}px`;
}

function typing(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

/** Stop and send change places while the model is at work; the focus stays where it was of use. */
function showState() {
  const busy = conversation.busy();
  const held = document.activeElement;
  $("stop").hidden = !busy;
  $("send").hidden = busy;
  if (held === $("send") || held === $("stop")) (busy ? $("stop") : $("request")).focus();
}

const empty = $("empty");
tools.start();
conversation.onChange(showState);
$("send").disabled = true;
$("new").addEventListener("click", clear);
$("stop").addEventListener("click", conversation.stop);
$("request").addEventListener("keydown", typing);
$("request").addEventListener("input", grow);
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.setKey($("key").value.trim());
  begin();
});
document.addEventListener("keywanted", askForKey);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && conversation.busy()) conversation.stop();
});
if (matchMedia("(max-width: 52rem)").matches) for (const id of ["functions", "settings"]) $(id).open = false;
$("request").focus({ preventScroll: true });
begin();
