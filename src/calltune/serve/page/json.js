// JSON with places: browsers' own messages name a position only at times, and each in its own words.

const WORDS = { true: true, false: false, null: null };
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;
const DEEPEST = 200;

export class PlaceError extends Error {
  constructor(text, offset, words) {
    const { line, column } = place(text, offset);
    super(`Line ${line}, column ${column}: ${words}`);
    Object.assign(this, { line, column, words });
  }
}

/** Line and column, both from 1, of an offset into a text. */
export function place(text, offset) {
  const before = text.slice(0, offset).split("\n");
  return { line: before.length, column: before.at(-1).length + 1 };
}

/** `{value, offsets}` of a JSON text; `offsets` maps each value's pointer ("/0/function/name") to where it begins. */
export function parse(text) {
  let at = 0;
  const offsets = new Map();
  const fail = (words, offset = at) => {
    throw new PlaceError(text, offset, words);
  };
  const blank = () => {
    while (" \t\r\n".includes(text[at] ?? "x")) at += 1;
  };
  const seen = () => (at < text.length ? `found ${JSON.stringify(text[at])}` : "the text ends");
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };

  function string() {
    const found = match(STRING);
    if (found !== undefined) return JSON.parse(found);
    if (text[at] === "'") fail("strings need double quotes");
    const from = at;
    at += 1;
    while (at < text.length && text[at] !== '"' && text[at] !== "\n") {
      if (text[at] < " ") fail("a control character must be escaped");
      if (text[at] !== "\\") at += 1;
      else if (match(ESCAPE) === undefined) fail("no such escape in a string");
    }
    return fail("this string is not closed", from);
  }

  // What stands between the brackets of a list or an object: `item` reads one entry.
  function entries(close, name, item) {
    at += 1;
    blank();
    if (text[at] === close) return void (at += 1);
    for (;;) {
      item();
      blank();
      if (text[at] === close) return void (at += 1);
      if (text[at] !== ",") fail(`${seen()}, expected "," or "${close}" in ${name}`);
      const comma = at;
      at += 1;
      blank();
      if (text[at] === close) fail(`no comma before "${close}"`, comma);
    }
  }

  function value(pointer, depth) {
    blank();
    if (depth > DEEPEST) fail("nested too deep");
    offsets.set(pointer, at);
    const first = text[at];
    if (first === "{") {
      const made = {};
      entries("}", "an object", () => {
        if (text[at] !== '"') fail(`${seen()}, expected a name in double quotes`);
        const key = string();
        blank();
        if (text[at] !== ":") fail(`${seen()}, expected ":" after the name`);
        at += 1;
        Object.defineProperty(made, key, {
          value: value(`${pointer}/${key}`, depth + 1), enumerable: true, writable: true, configurable: true,
        });
      });
      return made;
    }
    if (first === "[") {
      const made = [];
      entries("]", "a list", () => made.push(value(`${pointer}/${made.length}`, depth + 1)));
      return made;
    }
    if (first === '"' || first === "'") return string();
    const number = match(NUMBER);
    if (number !== undefined) return Number(number);
    const from = at;
    const word = match(/[A-Za-z]+/y);
    if (Object.hasOwn(WORDS, word)) return WORDS[word];
    const hint = { True: " (true)", False: " (false)", None: " (null)" }[word] ?? "";
    return fail(word ? `${word} is not JSON${hint}` : `${seen()}, expected a value`, from);
  }

  const made = value("", 0);
  blank();
  if (at < text.length) fail(`${seen()} after the end of the value`);
  return { value: made, offsets };
}

/** Whether a text is JSON. */
export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * A JSON text with line breaks for reading; any other text as it is. Numbers and strings stay as they were written:
 * JavaScript's own numbers would round a long id.
 */
export function pretty(text) {
  if (!isJson(text)) return text;
  let made = "";
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[{]\s*[\]}]|[[\]{}:,]|[^\s[\]{}:,"]+/g);
  for (const token of tokens) {
    if (token === "{" || token === "[") {
      depth += 1;
      made += token + line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      made += line() + token;
    } else if (token === ",") made += token + line();
    else if (token === ":") made += ": ";
    else made += /^[[{]/.test(token) ? token.replace(/\s+/, "") : token;
  }
  return made;
}
