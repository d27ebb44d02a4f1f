// What was answered: errors with where they are in the operation, and the rest as JSON.

const $ = (id) => document.getElementById(id);
const maxShown = 50; // events

export function source(response) {
  const where = response.headers.get("nearside-region"), how = response.headers.get("nearside-source");
  return where ? ", " + where + (how ? " " + how : "") : "";
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// answer shows an answer as it came.
export function answer(text) {
  const value = parse(text);
  $("answer").textContent = value === undefined ? text : JSON.stringify(value, null, 2);
  errors(value);
}

// errors shows the errors of an answer. A click on one goes to its place in the operation.
function errors(value) {
  const list = value && Array.isArray(value.errors) ? value.errors : [];
  $("errors").replaceChildren(...list.map((e) => {
    const item = document.createElement("li");
    const more = e.extensions || {};
    const code = [more.code, more.reason].filter(Boolean).join(" ");
    item.textContent = String(e.message) + (code ? " (" + code + ")" : "") + (e.path ? " at " + e.path.join(".") : "");
    for (const f of more.fields || []) item.append(document.createElement("br"), f.field + ": " + f.detail);
    const at = (e.locations || [])[0];
    if (at) {
      const go = document.createElement("button");
      go.type = "button";
      go.textContent = "line " + at.line;
      go.addEventListener("click", () => goTo(at.line, at.column));
      item.append(" ", go);
    }
    return item;
  }));
}

function goTo(line, column) {
  const editor = $("query"), lines = editor.value.split("\n");
  let start = 0;
  for (let i = 0; i < line - 1 && i < lines.length; i++) start += lines[i].length + 1;
  start = Math.min(start + column - 1, editor.value.length);
  const word = /^\w+/.exec(editor.value.slice(start));
  editor.focus();
  editor.setSelectionRange(start, start + (word ? word[0].length : 1));
}

// events shows the events of a subscription, the newest first, as many as there is room for. ended says whether the stream said so
// itself: otherwise it was cut off.
export async function events(response, progress) {
  const shown = [];
  let rest = "", count = 0, ended = false;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  $("answer").textContent = "";
  errors(undefined);
  progress(0);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const kind = (lines.find((l) => l.startsWith("event:")) || "").slice(6).trim();
        const data = lines.filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
        if (kind === "complete") ended = true;
        if (kind !== "next") continue;
        count++;
        const event = parse(data);
        errors(event);
        shown.unshift(event === undefined ? data : JSON.stringify(event, null, 2));
        shown.length = Math.min(shown.length, maxShown);
      }
      $("answer").textContent = shown.join("\n\n");
      progress(count);
    }
  } catch (e) {
    if (e.name === "AbortError") throw e;
  }
  return { ended, count };
}
