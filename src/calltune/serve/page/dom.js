// Making and finding elements. Text goes in as text nodes only: nothing that a model or a server says becomes HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `on…` handlers, attributes) and children (nodes or strings). */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const button = (text, onclick, properties = {}) => el("button", { type: "button", text, onclick, ...properties });

/** Set a node's text only where it changed, so that a selection in it survives. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Tell a screen reader; what is told last is what counts. */
export function announce(text) {
  $("status").textContent = text;
}

/** Keep the end of the conversation in view, unless the reader scrolled up. `work` changes the page. */
export function following(work) {
  const page = document.scrollingElement;
  const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
  const made = work();
  if (atEnd) page.scrollTop = page.scrollHeight;
  return made;
}
