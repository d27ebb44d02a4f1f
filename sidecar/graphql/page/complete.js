// Completion of fields, as far as braces tell which type the cursor is in.
import { bare } from "./page.js";
import { named, types, typeText } from "./schema.js";

const $ = (id) => document.getElementById(id);
const most = 12;

// typeAt is the type whose fields stand at the end of a text; nothing where that is not known.
function typeAt(text) {
  const root = { query: "Query", mutation: "Mutation", subscription: "Subscription" };
  const stack = [];
  let next = null, parens = 0, last = "";
  for (const [token] of bare(text).matchAll(/\.\.\.\s*on\s+\w+|\w+|[{}()]/g)) {
    if (token === "(") parens++;
    else if (token === ")") parens--;
    else if (parens > 0) continue;
    else if (token === "{") {
      stack.push(stack.length ? next : root[last] || next || "Query");
      next = null;
    } else if (token === "}") stack.pop();
    else if (/^\.\.\.\s*on/.test(token)) next = token.split(/\s+/).pop();
    else if (stack.length) {
      const type = types.find((t) => t.name === stack[stack.length - 1]);
      const field = type && (type.fields || []).find((f) => f.name === token);
      next = field ? named(field.type).name : null;
    } else if (root[token]) last = token;
    else if (last === "on") next = token;
    else if (token === "on") last = "on";
  }
  return parens > 0 ? null : types.find((t) => t.name === stack[stack.length - 1]);
}

// complete shows the fields that may stand where the cursor is.
export function complete() {
  const editor = $("query"), list = $("completions");
  const before = editor.value.slice(0, editor.selectionStart);
  const word = /\w*$/.exec(before)[0];
  const type = types.length && word ? typeAt(before.slice(0, before.length - word.length)) : null;
  const found = type ? (type.fields || []).filter((f) => f.name.startsWith(word) && f.name !== word).slice(0, most) : [];
  list.hidden = !found.length;
  list.replaceChildren(...found.map((f) => {
    const item = document.createElement("li"), button = document.createElement("button");
    item.setAttribute("role", "option");
    button.type = "button";
    button.textContent = f.name;
    button.title = typeText(f.type);
    button.addEventListener("click", () => insert(f.name.slice(word.length)));
    item.append(button);
    return item;
  }));
}

function insert(text) {
  const editor = $("query");
  editor.focus();
  editor.setRangeText(text, editor.selectionStart, editor.selectionEnd, "end");
  $("completions").hidden = true;
}

// watchSchema has the keyboard reach what is shown: Tab takes the first, Escape none.
export function watchSchema() {
  const editor = $("query"), list = $("completions");
  if (editor.dataset.completes) return;
  editor.dataset.completes = "yes";
  editor.addEventListener("keydown", (e) => {
    if (list.hidden) return;
    if (e.key === "Tab" && !e.shiftKey) {
      e.preventDefault();
      list.querySelector("button").click();
    } else if (e.key === "Escape") list.hidden = true;
  });
}
