import { timestampFromDate, timestampDate } from "@bufbuild/protobuf/wkt";
import { create } from "@bufbuild/protobuf";
import { header, rowObject, UserService, type Mesh, type WatchEvent } from "../src/web.js";
import { UserSchema, type User } from "../src/gen/nearside/business/v1/user_pb.js";
import type { Follower, State } from "./follow.js";
import { flash, h, timeText } from "./dom.js";

const pageSize = 50;
// The oldest ones beyond are not shown.
const maxShown = 1000;

/** What a list of users tells. */
export interface UsersEvents {
  state(state: State, text: string): void;
  /** A region has told of a user's state. */
  seen(user: User): void;
  gone(id: string, name: string): void;
  edit(user: User): void;
  select(user: User): void;
}

/** A region's users, the newest first. */
export class Users implements Follower {
  readonly root: HTMLElement;
  readonly #body = h("tbody");
  readonly #more: HTMLButtonElement;
  readonly #empty = h("p", { class: "empty" }, "No users yet. Add the first one above.");
  readonly #mesh: Mesh;
  readonly #events: UsersEvents;
  readonly #users = new Map<string, User>();
  readonly #rows = new Map<string, HTMLTableRowElement>();
  readonly #touched = new Set<string>();
  #drawing = 0;
  #nextPage = "";
  #selected = "";

  constructor(mesh: Mesh, region: string, events: UsersEvents) {
    this.#mesh = mesh;
    this.#events = events;
    this.#more = h("button", { type: "button", class: "quiet", onclick: () => void this.#readMore() }, "Show more");
    this.root = h(
      "div",
      { class: "users" },
      h(
        "table",
        { "aria-label": `Users in ${region}` },
        h(
          "thead",
          {},
          h("tr", {}, h("th", { scope: "col" }, "User"), h("th", { scope: "col" }, "Changed"), h("th", { scope: "col" }, h("span", { class: "hidden" }, "Actions"))),
        ),
        this.#body,
      ),
      this.#empty,
      this.#more,
    );
    this.#empty.hidden = true;
    this.#more.hidden = true;
  }

  /** Marks the user whose orders are shown. */
  select(id: string): void {
    this.#selected = id;
    for (const [key, row] of this.#rows) {
      row.classList.toggle("selected", key === id);
      row.querySelector("[aria-pressed]")?.setAttribute("aria-pressed", String(key === id));
    }
  }

  state(state: State, text: string): void {
    this.#events.state(state, text);
  }

  async read(bookmark: string): Promise<void> {
    this.#users.clear();
    await this.#readPage("", bookmark);
  }

  changed(event: WatchEvent): void {
    for (const change of event.changes) {
      if (change.row === undefined) {
        const id = change.key[0]?.kind.value;
        if (typeof id === "string") {
          const name = this.#users.get(id)?.name ?? id;
          this.#users.delete(id);
          this.#events.gone(id, name);
        }
        continue;
      }
      const user = userOf(rowObject(event.columns, change.row), change.row.version);
      this.#users.set(user.id, user);
      this.#touched.add(user.id);
      this.#events.seen(user);
    }
    // However many commits there are, the table is drawn once a frame, and not while nobody sees it.
    if (this.#drawing === 0) {
      this.#drawing = requestAnimationFrame(() => {
        this.#drawing = 0;
        this.#draw();
      });
    }
  }

  async #readMore(): Promise<void> {
    this.#more.disabled = true;
    try {
      await this.#readPage(this.#nextPage, "");
    } catch {
      // The button is there again, and the pane says how the region is.
    } finally {
      this.#more.disabled = false;
    }
  }

  async #readPage(pageToken: string, bookmark: string): Promise<void> {
    const headers: HeadersInit = bookmark === "" ? {} : { [header.bookmark]: bookmark };
    const page = await this.#mesh.client(UserService).listUsers({ pageSize, pageToken }, { headers });
    for (const user of page.users) {
      const present = this.#users.get(user.id);
      if (present === undefined || present.version < user.version) {
        this.#users.set(user.id, user);
      }
    }
    this.#nextPage = page.nextPageToken;
    this.#draw();
  }

  #draw(): void {
    const users = [...this.#users.values()].sort(newestFirst);
    for (const user of users.splice(maxShown)) {
      this.#users.delete(user.id);
    }
    for (const [id, row] of this.#rows) {
      if (!this.#users.has(id)) {
        row.remove();
        this.#rows.delete(id);
      }
    }
    const rows = users.map((user) => this.#row(user)); // first: it may replace what is there
    let before = this.#body.firstElementChild;
    for (const row of rows) {
      if (row === before) {
        before = row.nextElementSibling;
      } else {
        this.#body.insertBefore(row, before);
      }
    }
    for (const id of this.#touched) {
      const row = this.#rows.get(id);
      if (row !== undefined) {
        flash(row);
      }
    }
    this.#touched.clear();
    this.#empty.hidden = users.length > 0;
    this.#more.hidden = this.#nextPage === "" || users.length === maxShown;
  }

  #row(user: User): HTMLTableRowElement {
    const version = String(user.version);
    const present = this.#rows.get(user.id);
    if (present?.dataset["version"] === version) {
      return present;
    }
    const selected = user.id === this.#selected;
    const row = h(
      "tr",
      { "data-id": user.id, "data-version": version, class: selected ? "selected" : "" },
      h("td", {}, h("strong", {}, user.name), h("small", {}, user.email)),
      h(
        "td",
        {},
        h("time", {}, user.updateTime === undefined ? "" : timeText(timestampDate(user.updateTime))),
        h("small", {}, `version ${version}`),
      ),
      h(
        "td",
        { class: "actions" },
        h("button", { type: "button", class: "quiet", "aria-label": `Edit ${user.name}`, onclick: () => this.#events.edit(user) }, "Edit"),
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-label": `Orders of ${user.name}`,
            "aria-pressed": String(selected),
            onclick: () => this.#events.select(user),
          },
          "Orders",
        ),
      ),
    );
    present?.replaceWith(row);
    this.#rows.set(user.id, row);
    return row;
  }
}

function newestFirst(a: User, b: User): number {
  const [x, y] = [a.createTime, b.createTime];
  const newer = Number((y?.seconds ?? 0n) - (x?.seconds ?? 0n)) || (y?.nanos ?? 0) - (x?.nanos ?? 0);
  return newer || (a.id < b.id ? -1 : 1);
}

/** A user as the table has it. */
function userOf(row: Record<string, unknown>, version: bigint): User {
  return create(UserSchema, {
    id: text(row["id"]),
    email: text(row["email"]),
    name: text(row["name"]),
    createTime: time(row["created_at"]),
    updateTime: time(row["updated_at"]),
    version,
  });
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A time in nanoseconds since 1970; milliseconds are what is shown. */
export function time(value: unknown) {
  return timestampFromDate(new Date(typeof value === "bigint" ? Number(value / 1_000_000n) : 0));
}
