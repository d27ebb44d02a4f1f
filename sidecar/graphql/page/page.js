// Everything that is asked for goes to /graphql of this origin. The token stays in this page, and so do headers.
import { answer, events, source } from "./answer.js";
import { complete, watchSchema } from "./complete.js";
import { forget, history, remember } from "./history.js";
import { draw, load } from "./schema.js";

const $ = (id) => document.getElementById(id);
let running = null;

function say(text) { $("state").textContent = text; }

// headers are those of a request: what the fields above say, and lines of "Name: value". It throws where a line is none.
function headers(accept) {
  const h = new Headers({ "Content-Type": "application/json", "Accept": accept });
  const token = $("token").value.trim();
  if (token) h.set("Authorization", "Bearer " + token);
  const bookmark = $("bookmark").value.trim();
  if (bookmark) h.set("Nearside-Bookmark", bookmark);
  for (const line of $("headers").value.split("\n")) {
    if (!line.trim()) continue;
    const at = line.indexOf(":");
    if (at < 1) throw new Error("No header: " + line.trim());
    h.set(line.slice(0, at).trim(), line.slice(at + 1).trim());
  }
  return h;
}

export function ask(request, accept, signal) {
  return fetch("/graphql", {
    method: "POST", body: JSON.stringify(request), signal, credentials: "omit", cache: "no-store", headers: headers(accept),
  });
}

// bare is a document without its comments and strings, each as long as it was.
export function bare(text) {
  return text.replace(/"""[\s\S]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?|#.*/g, (found) => found.replace(/[^\n]/g, " "));
}

// operations are those of a document, as far as a look at it tells.
function operations(text) {
  const found = [];
  let depth = 0;
  for (const m of bare(text).matchAll(/[{}]|\b(query|mutation|subscription)\b\s*([A-Za-z_]\w*)?/g)) {
    if (m[0] === "{") depth++;
    else if (m[0] === "}") depth--;
    else if (depth === 0) found.push({ kind: m[1], name: m[2] || "" });
  }
  return found;
}

function showOperations() {
  const named = operations($("query").value).filter((o) => o.name);
  const before = $("operation").value;
  $("operation").replaceChildren(...named.map((o) => new Option(o.name)));
  if (named.some((o) => o.name === before)) $("operation").value = before;
  $("operations").hidden = named.length < 2;
}

async function run() {
  stop();
  showOperations();
  const query = $("query").value, all = operations(query);
  const operationName = all.length > 1 ? $("operation").value : undefined;
  const chosen = all.length > 1 ? all.find((o) => o.name === operationName) : all[0];
  let variables;
  try {
    variables = JSON.parse($("variables").value || "{}");
  } catch (e) {
    answer("The variables are no JSON: " + e.message);
    return;
  }
  const control = running = new AbortController();
  $("stop").disabled = false;
  say("…");
  remember({ query, variables: $("variables").value });
  const began = performance.now();
  const subscribes = chosen && chosen.kind === "subscription";
  try {
    for (let tries = 0; ; tries++) {
      const response = await ask({ query, variables, operationName },
        subscribes ? "text/event-stream" : "application/graphql-response+json", control.signal);
      const bookmark = response.headers.get("nearside-bookmark");
      if (bookmark) $("bookmark").value = bookmark;
      if (!(response.headers.get("content-type") || "").startsWith("text/event-stream")) {
        answer(await response.text());
        say(response.status + " in " + Math.round(performance.now() - began) + " ms" + source(response));
        return;
      }
      const { ended, count } = await events(response, (n) => say(n + " events in " + Math.round((performance.now() - began) / 1000) + " s"));
      if (ended || control.signal.aborted) {
        say(count + " events, then the end");
        return;
      }
      if (count > 0) tries = 0;
      const wait = Math.min(1000 * 2 ** tries, 15000);
      say("cut off after " + count + " events, again in " + Math.round(wait / 1000) + " s");
      await new Promise((done) => {
        const timer = setTimeout(done, wait);
        control.signal.addEventListener("abort", () => { clearTimeout(timer); done(); });
      });
      if (control.signal.aborted) return;
    }
  } catch (e) {
    if (control.signal.aborted) say("stopped");
    else {
      answer("");
      say(e.message);
    }
  } finally {
    if (running === control) {
      running = null;
      $("stop").disabled = true;
    }
  }
}

function stop() {
  if (running) running.abort();
  running = null;
  $("stop").disabled = true;
}

// use puts an operation into the editor.
export function use(query, variables) {
  $("query").value = query;
  if (variables !== undefined) $("variables").value = variables;
  showOperations();
  $("query").focus();
}

$("run").addEventListener("click", run);
$("stop").addEventListener("click", stop);
$("load").addEventListener("click", () => load().then(watchSchema, (e) => say(e.message)));
$("search").addEventListener("input", draw);
$("forget").addEventListener("click", forget);
$("past").addEventListener("toggle", history);
$("query").addEventListener("input", () => { showOperations(); complete(); });
document.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
    e.preventDefault();
    run();
  }
});
showOperations();
export { say };
