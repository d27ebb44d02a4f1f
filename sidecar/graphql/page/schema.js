// The schema, as the gateway tells it to who shows a token.
import { ask, say, use } from "./page.js";

const $ = (id) => document.getElementById(id);

const introspection = `query { __schema { types { kind name description
  fields(includeDeprecated: true) { name description isDeprecated deprecationReason args { name description type { ...T } } type { ...T } }
  inputFields { name description type { ...T } } enumValues(includeDeprecated: true) { name description } } } }
fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }`;

const roots = ["Query", "Mutation", "Subscription"];
export let types = [];

export function typeText(t) {
  if (t.kind === "NON_NULL") return typeText(t.ofType) + "!";
  if (t.kind === "LIST") return "[" + typeText(t.ofType) + "]";
  return t.name;
}

export function named(t) { return t.ofType ? named(t.ofType) : t; }

export async function load() {
  say("…");
  const response = await ask({ query: introspection }, "application/graphql-response+json");
  const answer = await response.json();
  if (!answer.data) throw new Error(answer.errors[0].message);
  types = answer.data.__schema.types.filter((t) => !t.name.startsWith("__"));
  const rank = (t) => { const i = roots.indexOf(t.name); return i < 0 ? roots.length : i; };
  types.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
  say(types.length + " types");
  draw();
}

function element(tag, text, ...children) {
  const e = document.createElement(tag);
  if (text) e.textContent = text;
  e.append(...children);
  return e;
}

// link is a type's name that leads to the type.
function link(t) {
  const name = named(t).name;
  if (!types.some((other) => other.name === name && other.kind !== "SCALAR")) return typeText(t);
  const button = element("button", typeText(t));
  button.type = "button";
  button.className = "link";
  button.addEventListener("click", () => open(name));
  return button;
}

function open(name) {
  $("search").value = "";
  draw();
  const found = [...$("types").children].find((e) => e.dataset.name === name);
  if (!found) return;
  found.open = true;
  found.querySelector("summary").focus();
  found.scrollIntoView({ block: "start" });
}

// skeleton is an operation that has a field of a root, with its arguments as variables and the plain fields of what it answers.
function skeleton(root, f) {
  const args = f.args.filter((a) => a.type.kind === "NON_NULL");
  const declared = args.map((a) => "$" + a.name + ": " + typeText(a.type)).join(", ");
  const passed = args.map((a) => a.name + ": $" + a.name).join(", ");
  const variables = Object.fromEntries(args.map((a) => [a.name, example(a.type)]));
  const text = root.toLowerCase() + " " + f.name + (declared ? "(" + declared + ")" : "") + " {\n  " + f.name + (passed ? "(" + passed + ")" : "") +
    fieldsOf(named(f.type).name, "  ", 0) + "\n}\n";
  return [text, JSON.stringify(variables, null, 2)];
}

function example(t) {
  if (t.kind === "NON_NULL") return example(t.ofType);
  if (t.kind === "LIST") return [];
  if (t.kind === "INPUT_OBJECT") return {};
  return { Int: 0, Float: 0, Boolean: false }[t.name] ?? "";
}

function fieldsOf(name, indent, depth) {
  const type = types.find((t) => t.name === name);
  if (!type || !type.fields) return "";
  const plain = type.fields.filter((f) => ["SCALAR", "ENUM"].includes(named(f.type).kind)).map((f) => f.name);
  if (!plain.length && depth < 2) { // what is in it, then
    const inner = type.fields.slice(0, 3).map((f) => f.name + fieldsOf(named(f.type).name, indent + "  ", depth + 1));
    return " {\n" + inner.map((l) => indent + "  " + l + "\n").join("") + indent + "}";
  }
  return " {\n" + (plain.length ? plain : ["__typename"]).map((l) => indent + "  " + l + "\n").join("") + indent + "}";
}

function member(t, m) {
  const line = element("code", m.name);
  if (m.args && m.args.length) {
    line.append("(");
    m.args.forEach((a, i) => line.append(...(i ? [", "] : []), a.name + ": ", link(a.type)));
    line.append(")");
  }
  if (m.type) line.append(": ", link(m.type));
  const item = element("li", "", line);
  if (roots.includes(t.name)) {
    const button = element("button", "Use");
    button.type = "button";
    button.title = "Write an operation with it";
    button.addEventListener("click", () => use(...skeleton(t.name, m)));
    item.append(" ", button);
  }
  if (m.isDeprecated) item.append(element("p", "Deprecated" + (m.deprecationReason ? ": " + m.deprecationReason : "")));
  if (m.description) item.append(element("p", m.description));
  return item;
}

// draw shows the types, as far as they match what is searched for.
export function draw() {
  const wanted = $("search").value.trim().toLowerCase();
  const matches = (text) => text.toLowerCase().includes(wanted);
  $("types").replaceChildren(...types.map((t) => {
    const members = [...(t.fields || []), ...(t.inputFields || []), ...(t.enumValues || [])];
    const whole = !wanted || matches(t.name);
    const hits = whole ? members : members.filter((m) => matches(m.name) || matches(m.description || ""));
    if (!whole && !hits.length) return null;
    const details = element("details", "", element("summary", t.name));
    details.dataset.name = t.name;
    const fill = () => {
      if (details.childElementCount > 1) return;
      if (t.description) details.append(element("p", t.description));
      details.append(element("ul", "", ...hits.map((m) => member(t, m))));
    };
    details.addEventListener("toggle", fill);
    details.open = Boolean(wanted) || t.name === "Query";
    if (details.open) fill();
    return details;
  }).filter(Boolean));
}
