import { AuthService, Code, errorOf, Login, Session, webMesh, webTransport } from "../src/web.js";
import { pause } from "../src/pause.js";
import { Activity } from "./activity.js";
import { brand, h, pages } from "./dom.js";
import { loginView } from "./login.js";
import { Pane } from "./pane.js";
import { database, World } from "./world.js";

const refreshEveryMs = 2000;
// Of this tab alone, so that two tabs do not use one refresh token.
const tokenKey = "nearside-demo-refresh";

const app = document.querySelector<HTMLElement>("#app") ?? document.body;
let running: AbortController | undefined;

const login = new Login(webTransport(), {
  onChange(tokens) {
    if (tokens === undefined || tokens.refreshToken === "") {
      sessionStorage.removeItem(tokenKey);
    } else {
      sessionStorage.setItem(tokenKey, tokens.refreshToken);
    }
    if (tokens === undefined && running !== undefined) {
      showLogin("The session has ended.");
    }
  },
});

function showLogin(reason = ""): void {
  running?.abort();
  running = undefined;
  app.replaceChildren(loginView(login, () => void showMesh(), reason));
}

async function showMesh(): Promise<void> {
  const stop = new AbortController();
  running = stop;
  const world = new World(login, new Session());
  app.replaceChildren(h("main", { class: "login" }, h("p", { role: "status" }, "Asking the mesh for its regions …")));
  try {
    await world.refresh(stop.signal);
  } catch (error) {
    if (running === stop) {
      showLogin(errorOf(error)?.rawMessage ?? String(error));
    }
    return;
  }
  const activity = new Activity();
  const second = world.regions.find((r) => r.name !== world.own)?.name;
  const panes: Pane[] = [];
  for (const region of second === undefined ? [world.own] : [world.own, second]) {
    const pane: Pane = new Pane(world, region, activity, {
      region: (name) => {
        panes.forEach((p) => p.select(undefined));
        pane.show(name);
      },
      select: (user) => panes.forEach((p) => p.select(user)),
    });
    panes.push(pane);
  }
  panes.forEach((p) => p.select(undefined));
  stop.signal.addEventListener("abort", () => panes.forEach((p) => p.close()));

  const rights = h("span", { class: "rights" });
  const logOut = async () => {
    running = undefined; // so that the end is not reported as one that nobody wanted
    stop.abort();
    showLogin();
    await login.end({ timeoutMs: 5000 }).catch(() => undefined); // here it has ended in any case
  };
  app.replaceChildren(
    h(
      "header",
      { class: "top" },
      brand(),
      h("p", {}, "Write in one region, watch it arrive in the other."),
      rights,
      h("button", { type: "button", class: "quiet", onclick: () => void logOut() }, "Log out"),
    ),
    h("main", { class: panes.length === 1 ? "panes single" : "panes" }, ...panes.map((p) => p.root)),
    h("section", { class: "log", "aria-label": "Activity" }, h("h2", {}, "What happened"), activity.list),
    pages(),
  );
  void mayWrite(world).then((may) => {
    rights.textContent = may === undefined ? "" : may ? "may write" : "read only";
  });
  while (await pause(refreshEveryMs, stop.signal)) {
    if (document.visibilityState === "hidden") {
      continue;
    }
    await world.refresh(stop.signal).catch(() => undefined); // the panes say how their regions are
    panes.forEach((p) => p.refresh());
  }
}

/** Whether the caller may write users and orders; undefined if nobody says. */
async function mayWrite(world: World): Promise<boolean | undefined> {
  try {
    const action = "/nearside.data.v1.DataService/Transact";
    return (await world.mesh(world.own).client(AuthService).authorize({ action, database })).allowed;
  } catch {
    return undefined;
  }
}

async function start(): Promise<void> {
  const refreshToken = sessionStorage.getItem(tokenKey);
  if (refreshToken !== null) {
    try {
      await login.resume(refreshToken);
      await showMesh();
      return;
    } catch {
      sessionStorage.removeItem(tokenKey);
    }
  }
  // A mesh without authentication lets everybody in.
  try {
    await webMesh({ retry: false }).client(AuthService).getJwks({});
  } catch (error) {
    if (errorOf(error)?.code === Code.Unimplemented) {
      await showMesh();
      return;
    }
  }
  showLogin();
}

void start();
