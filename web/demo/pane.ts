import type { User } from "../src/gen/nearside/business/v1/user_pb.js";
import type { Activity } from "./activity.js";
import { h, newId } from "./dom.js";
import { follow, type State } from "./follow.js";
import { editUser, orderForm, userForm, userKey, type Outcome } from "./forms.js";
import { Orders } from "./orders.js";
import { Users } from "./users.js";
import { database, type World } from "./world.js";

/** What a pane tells the page. */
export interface PaneEvents {
  /** Another region was chosen. */
  region(name: string): void;
  /** A user's orders are wanted, in all panes; undefined for nobody's. */
  select(user: User | undefined): void;
}

/** One region: its users, the orders of one of them, and forms that write through it. */
export class Pane {
  readonly root: HTMLElement;
  readonly #world: World;
  readonly #activity: Activity;
  readonly #events: PaneEvents;
  readonly #choice: HTMLSelectElement;
  readonly #state = h("span", { class: "state waiting", role: "status" }, "connecting");
  readonly #facts = h("p", { class: "facts" });
  readonly #notice = h("p", { class: "notice", role: "alert" });
  readonly #content = h("div", { class: "content" });
  readonly #detail = h("section", { class: "detail" });
  #region: string;
  #users: Users | undefined;
  #stop = new AbortController();
  #stopOrders = new AbortController();

  constructor(world: World, region: string, activity: Activity, events: PaneEvents) {
    this.#world = world;
    this.#region = region;
    this.#activity = activity;
    this.#events = events;
    const id = newId("region");
    this.#choice = h("select", { id, onchange: () => events.region(this.#choice.value) });
    this.#notice.hidden = true;
    this.root = h(
      "section",
      { class: "pane", "aria-label": region },
      h("header", {}, h("label", { class: "hidden", for: id }, "Region"), this.#choice, this.#state),
      this.#facts,
      this.#notice,
      this.#content,
      this.#detail,
    );
    this.#begin();
  }

  get region(): string {
    return this.#region;
  }

  /** Shows another region. */
  show(region: string): void {
    if (region !== this.#region) {
      this.close();
      this.#region = region;
      this.root.setAttribute("aria-label", region);
      this.#begin();
    }
  }

  /** Shows a user's orders, or nobody's. */
  select(user: User | undefined): void {
    this.#stopOrders.abort();
    this.#stopOrders = new AbortController();
    this.#users?.select(user?.id ?? "");
    this.#detail.replaceChildren();
    this.#detail.hidden = user === undefined;
    if (user === undefined) {
      return;
    }
    const mesh = this.#world.mesh(this.#region);
    const title = h("h3", { id: newId("orders") }, `Orders of ${user.name}`);
    const orders = new Orders(mesh, user.id, `Orders of ${user.name} in ${this.#region}`, {
      state: () => undefined, // the users' says how the region is
      seen: (id) => this.#activity.seen(id, this.#region, `an order of ${user.name}`),
    });
    this.#detail.setAttribute("aria-labelledby", title.id);
    this.#detail.append(
      h(
        "div",
        { class: "title" },
        title,
        h("button", { type: "button", class: "quiet", "aria-label": "Close orders", onclick: () => this.#events.select(undefined) }, "Close"),
      ),
      orderForm(mesh, this.#region, user, this.#outcome()),
      orders.root,
    );
    const equal = { user_id: { kind: { case: "text" as const, value: user.id } } };
    void follow(mesh, { database, table: "orders", equal }, orders, this.#stopOrders.signal);
  }

  /** Shows how the regions are. */
  refresh(): void {
    const names = this.#world.regions.map((r) => r.name);
    if (names.join() !== [...this.#choice.options].map((o) => o.value).join()) {
      this.#choice.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    }
    this.#choice.value = this.#region;
    const region = this.#world.regions.find((r) => r.name === this.#region);
    const copy = region?.databases.find((d) => d.name === database);
    const facts = [region?.primary === true ? "the primary's region" : "a replica"];
    if (region?.ready === false) {
      facts.push(region.reason === "" ? "not ready" : region.reason);
    } else if (copy !== undefined) {
      facts.push(`version ${copy.version}`, copy.lag === 0n ? "no lag" : `${copy.lag} behind`, ageText(copy.stalenessMs));
    }
    if (region !== undefined && !region.connected) {
      facts.push("cut off from the primary");
    }
    this.#facts.textContent = facts.join(" · ");
  }

  close(): void {
    this.#stop.abort();
    this.#stopOrders.abort();
  }

  #begin(): void {
    this.#stop = new AbortController();
    const mesh = this.#world.mesh(this.#region);
    const region = this.#region;
    this.#say("");
    this.#setState("waiting", "connecting");
    this.#users = new Users(mesh, region, {
      state: (state, text) => this.#setState(state, text),
      seen: (user) => this.#activity.seen(userKey(user), region, `user ${user.name}, version ${user.version}`),
      gone: (id, name) => this.#activity.seen(`${id}@gone`, region, `the end of user ${name}`),
      edit: (user) => editUser(mesh, region, user, this.#outcome()),
      select: (user) => this.#events.select(user),
    });
    this.#content.replaceChildren(userForm(mesh, region, this.#outcome()), this.#users.root);
    this.refresh();
    void follow(mesh, { database, table: "users" }, this.#users, this.#stop.signal);
  }

  #outcome(): Outcome {
    const region = this.#region;
    return {
      written: (w) => this.#activity.written(w.key, w.what, region, w.sentAt, w.tookMs),
      notice: (text) => this.#say(text),
      lost: () => this.#world.session.clear(),
    };
  }

  #say(text: string): void {
    this.#notice.textContent = text;
    this.#notice.hidden = text === "";
  }

  #setState(state: State, text: string): void {
    if (this.#state.textContent === text && this.#state.classList.contains(state)) {
      return;
    }
    this.#state.className = `state ${state}`;
    this.#state.textContent = text;
  }
}

// What a region says of a copy that was never complete.
const unknownAge = 0xffffffff;

function ageText(ms: number): string {
  return ms === unknownAge ? "no copy yet" : ms < 10_000 ? `at most ${ms} ms old` : `at most ${Math.round(ms / 1000)} s old`;
}
