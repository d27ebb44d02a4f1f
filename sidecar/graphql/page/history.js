// The operations that were run, kept by the browser for this origin: queries and variables, and neither tokens nor headers.
import { use } from "./page.js";

const $ = (id) => document.getElementById(id);
const place = "nearside.graphql.history", most = 50, largest = 64 << 10;

function past() {
  try {
    const list = JSON.parse(localStorage.getItem(place) || "[]");
    return Array.isArray(list) ? list.filter((e) => e && typeof e.query === "string") : [];
  } catch {
    return []; // it may not be read, or is none
  }
}

export function remember(entry) {
  if (entry.query.length + entry.variables.length > largest) return;
  const list = [{ ...entry, at: Date.now() }, ...past().filter((e) => e.query !== entry.query || e.variables !== entry.variables)];
  try {
    localStorage.setItem(place, JSON.stringify(list.slice(0, most)));
  } catch { /* there is no room, or none may be used */ }
  if ($("past").open) history();
}

export function forget() {
  try {
    localStorage.removeItem(place);
  } catch { /* then there is nothing */ }
  history();
}

export function history() {
  $("history").replaceChildren(...past().map((e) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = e.query.replace(/\s+/g, " ").trim().slice(0, 120);
    button.title = new Date(e.at).toLocaleString();
    button.addEventListener("click", () => use(e.query, e.variables));
    item.append(button);
    return item;
  }));
}
