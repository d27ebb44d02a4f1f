"use strict";

// Everything that is asked for goes to /graphql of this origin. The token stays in this page.
const $ = (id) => document.getElementById(id);
let running = null;

function say(text) { $("state").textContent = text; }

function headers(accept) {
  const h = { "Content-Type": "application/json", "Accept": accept };
  const token = $("token").value.trim();
  if (token) h["Authorization"] = "Bearer " + token;
  const bookmark = $("bookmark").value.trim();
  if (bookmark) h["Nearside-Bookmark"] = bookmark;
  return h;
}

async function run() {
  stop();
  const query = $("query").value;
  let variables;
  try {
    variables = JSON.parse($("variables").value || "{}");
  } catch (e) {
    $("answer").textContent = "The variables are no JSON: " + e.message;
    return;
  }
  const subscription = /^\s*subscription\b/m.test(query.replace(/#.*$/gm, ""));
  const control = running = new AbortController();
  $("stop").disabled = false;
  say("…");
  const began = performance.now();
  try {
    const response = await fetch("/graphql", {
      method: "POST", body: JSON.stringify({ query, variables }), signal: control.signal, credentials: "omit",
      headers: headers(subscription ? "text/event-stream" : "application/graphql-response+json"),
    });
    const bookmark = response.headers.get("nearside-bookmark");
    if (bookmark) $("bookmark").value = bookmark;
    if (response.headers.get("content-type") === "text/event-stream") {
      await events(response, began);
      return;
    }
    const text = await response.text();
    show(text);
    say(response.status + " in " + Math.round(performance.now() - began) + " ms" + source(response));
  } catch (e) {
    if (!control.signal.aborted) say(e.message);
  } finally {
    if (running === control) {
      running = null;
      $("stop").disabled = true;
    }
  }
}

function source(response) {
  const where = response.headers.get("nearside-region"), how = response.headers.get("nearside-source");
  return where ? ", " + where + (how ? " " + how : "") : "";
}

function show(text) {
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
  } catch { /* it is shown as it is */ }
  $("answer").textContent = text;
}

// events shows the events of a subscription, the newest first, as many as there is room for.
async function events(response, began) {
  const shown = [];
  let rest = "", count = 0;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  $("answer").textContent = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const kind = (lines.find((l) => l.startsWith("event:")) || "").slice(6).trim();
      const data = lines.filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trim()).join("\n");
      if (kind !== "next") continue;
      count++;
      let text = data;
      try { text = JSON.stringify(JSON.parse(data), null, 2); } catch { /* as it is */ }
      shown.unshift(text);
      shown.length = Math.min(shown.length, 50);
    }
    $("answer").textContent = shown.join("\n\n");
    say(count + " events in " + Math.round((performance.now() - began) / 1000) + " s");
  }
}

function stop() {
  if (running) running.abort();
  running = null;
  $("stop").disabled = true;
}

const introspection = `query { __schema { types { kind name description
  fields { name description args { name type { ...T } } type { ...T } }
  inputFields { name description type { ...T } } enumValues { name description } } } }
fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }`;

function typeText(t) {
  if (t.kind === "NON_NULL") return typeText(t.ofType) + "!";
  if (t.kind === "LIST") return "[" + typeText(t.ofType) + "]";
  return t.name;
}

let types = [];

async function load() {
  say("…");
  const response = await fetch("/graphql", {
    method: "POST", headers: headers("application/graphql-response+json"), credentials: "omit", body: JSON.stringify({ query: introspection }),
  });
  const answer = await response.json();
  if (!answer.data) {
    say(answer.errors[0].message);
    return;
  }
  types = answer.data.__schema.types.filter((t) => !t.name.startsWith("__"));
  const first = ["Query", "Mutation", "Subscription"];
  const rank = (t) => { const i = first.indexOf(t.name); return i < 0 ? first.length : i; };
  types.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
  say(types.length + " types");
  list();
}

function element(tag, text, ...children) {
  const e = document.createElement(tag);
  if (text) e.textContent = text;
  e.append(...children);
  return e;
}

function list() {
  const wanted = $("search").value.toLowerCase();
  $("types").replaceChildren(...types.map((t) => {
    const members = [...(t.fields || []), ...(t.inputFields || []), ...(t.enumValues || [])];
    const hits = members.filter((m) => !wanted || m.name.toLowerCase().includes(wanted) || t.name.toLowerCase().includes(wanted));
    if (wanted && !hits.length && !t.name.toLowerCase().includes(wanted)) return null;
    const items = hits.map((m) => {
      const args = (m.args || []).map((a) => a.name + ": " + typeText(a.type)).join(", ");
      const item = element("li", "", element("code", m.name + (args ? "(" + args + ")" : "") + (m.type ? ": " + typeText(m.type) : "")));
      if (m.description) item.append(element("p", m.description));
      return item;
    });
    const details = element("details", "", element("summary", t.name));
    if (t.description) details.append(element("p", t.description));
    details.append(element("ul", "", ...items));
    details.open = Boolean(wanted) || t.name === "Query";
    return details;
  }).filter(Boolean));
}

$("run").addEventListener("click", run);
$("stop").addEventListener("click", stop);
$("load").addEventListener("click", () => load().catch((e) => say(e.message)));
$("search").addEventListener("input", list);
document.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
    e.preventDefault();
    run();
  }
});
