// What is sent with every request beside messages and functions.

import { $, setText } from "./dom.js";

const FIELDS = { temperature: "Temperature", "max-tokens": "Most tokens a reply", seed: "Seed" };

/** `{temperature, max_tokens, seed?, constrained}`, or null after telling which field is wrong. */
export function read() {
  const wrong = Object.keys(FIELDS).filter((id) => !$(id).checkValidity());
  for (const id of Object.keys(FIELDS)) $(id).setAttribute("aria-invalid", String(wrong.includes(id)));
  setText($("settings-note"), wrong.map(problem).join(" "));
  if (wrong.length) {
    $("settings").open = true;
    $(wrong[0]).focus();
    return null;
  }
  const values = { temperature: $("temperature").valueAsNumber, max_tokens: $("max-tokens").valueAsNumber };
  if ($("seed").value) values.seed = $("seed").valueAsNumber;
  return { ...values, constrained: $("constrained").checked };
}

function problem(id) {
  const { min, max, step } = $(id);
  return `${FIELDS[id]}: a ${step === "1" ? "whole number" : "number"} from ${min} to ${max}.`;
}
