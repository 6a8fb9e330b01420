// The server's API: what is asked, what comes back, and what is said where it fails.

const KEY = "calltune-key";
const SILENT = "The server does not answer. Is calltune serve still running?";
const BROKEN = "The reply broke off before it was done: the server stopped, or the connection was lost.";

/** What the server refused or failed at. `status` is 0 where no answer came; `said`: the server's own words. */
export class ServerError extends Error {
  constructor(status, error) {
    super(typeof error === "string" ? error : words(status, error));
    Object.assign(this, { status, said: error?.message ?? this.message });
  }
}

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** `body` is JSON text. */
async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, SILENT);
  }
  if (response.status === 401) document.dispatchEvent(new Event("keywanted"));
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const error = (await response.json().catch(() => null))?.error;
  return new ServerError(response.status, error);
}

/** An OpenAI error object in plain words. */
function words(status, error) {
  const said = error?.message ?? "";
  const place = error?.param && !said.includes(error.param) ? ` (at ${error.param})` : "";
  if (status === 401) return "The server asks for an API key, and this one is missing or wrong.";
  if (status === 429) return "The server is busy: too many requests wait already. Try again in a moment.";
  if (status >= 500) return said ? `${said[0].toUpperCase()}${said.slice(1)}.` : "The server failed at this request.";
  return said ? `The server refused this: ${said}${place}` : `The server refused the request (HTTP ${status}).`;
}

/** Names of the models that the server offers. */
export async function models() {
  return (await received(await ask("v1/models"))).data.map((model) => model.id);
}

/** The registered functions: OpenAI tools, each with `pure`. */
export async function registered() {
  return (await received(await ask("api/tools"))).tools;
}

/**
 * Run a registered function: `{content, error}`. `args` is the text of a JSON object and is sent as it is: read as
 * JavaScript's numbers, a long id would be rounded. `confirmed` says that the user was asked.
 */
export async function execute(name, args, confirmed, signal) {
  const body = `{"name":${JSON.stringify(name)},"arguments":${args},"confirmed":${confirmed}}`;
  return received(await ask("api/execute", { body, signal }));
}

/** The JSON of an answer; it can still break off. */
async function received(response) {
  try {
    return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, BROKEN);
  }
}

/** The chunks of a streamed chat completion. */
export async function* stream(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const response = await ask("v1/chat/completions", { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await piece(reader);
    if (done) throw new ServerError(0, BROKEN);
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(500, chunk.error);
      yield chunk;
    }
  }
}

async function piece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, BROKEN);
  }
}
