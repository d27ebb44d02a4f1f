import { errorOf, idempotent, OrderService, UserService, type Mesh } from "../src/web.js";
import type { User } from "../src/gen/nearside/business/v1/user_pb.js";
import { field, h, newId } from "./dom.js";
import { words } from "./words.js";

/** What was written, and how long the answer took. */
export interface Written {
  key: string;
  what: string;
  sentAt: number;
  tookMs: number;
}

/** Where a form's outcome goes. */
export interface Outcome {
  written(w: Written): void;
  notice(text: string): void;
  /** Another primary took over without what the session has seen. */
  lost(): void;
}

/** The key by which a user's state is known in all regions. */
export function userKey(user: { id: string; version: bigint }): string {
  return `${user.id}@${user.version}`;
}

/** Runs a write with its form disabled. It says whether it was done. */
async function write(form: HTMLFormElement, outcome: Outcome, f: () => Promise<Omit<Written, "sentAt" | "tookMs">>): Promise<boolean> {
  const controls = [...form.elements].filter((e): e is HTMLButtonElement | HTMLInputElement => "disabled" in e);
  outcome.notice("");
  for (const control of controls) {
    control.disabled = true;
  }
  const sentAt = performance.now();
  try {
    const done = await f();
    outcome.written({ ...done, sentAt, tookMs: performance.now() - sentAt });
    return true;
  } catch (error) {
    if (errorOf(error)?.is("BOOKMARK_LOST") === true) {
      outcome.lost();
    }
    outcome.notice(words(error));
    return false;
  } finally {
    for (const control of controls) {
      control.disabled = false;
    }
  }
}

// How long a write may take before the page gives it up.
const timeoutMs = 15_000;

/** The form that adds a user through a region. */
export function userForm(mesh: Mesh, region: string, outcome: Outcome): HTMLFormElement {
  const name = field("Name", { name: "name", required: true, maxlength: 200, autocomplete: "off", placeholder: "Ada Lovelace" });
  const email = field("Email", { name: "email", type: "email", required: true, maxlength: 254, autocomplete: "off", placeholder: "ada@example.com" });
  const form = h(
    "form",
    { class: "row", "aria-label": `Add a user in ${region}` },
    name.root,
    email.root,
    h("button", { type: "submit", class: "main" }, "Add user"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = { name: name.input.value.trim(), email: email.input.value.trim() };
    void write(form, outcome, async () => {
      const { user } = await mesh.client(UserService).createUser(request, { ...idempotent(), timeoutMs });
      return { key: user === undefined ? "" : userKey(user), what: `created user ${request.name}` };
    }).then((done) => {
      if (done) {
        form.reset();
        name.input.focus();
      }
    });
  });
  return form;
}

/** The form that places an order of a user through a region. */
export function orderForm(mesh: Mesh, region: string, user: User, outcome: Outcome): HTMLFormElement {
  const sku = field("Article", { name: "sku", required: true, maxlength: 64, autocomplete: "off", placeholder: "pen" });
  const quantity = field("Pieces", { name: "quantity", type: "number", required: true, min: 1, max: 10_000, value: 1 });
  const price = field("Price", { name: "price", type: "number", required: true, min: 0, max: 1_000_000, step: "0.01", value: "2.50" });
  const form = h(
    "form",
    { class: "row", "aria-label": `Place an order of ${user.name} in ${region}` },
    sku.root,
    quantity.root,
    price.root,
    h("button", { type: "submit", class: "main" }, "Place order"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const item = {
      sku: sku.input.value.trim(),
      quantity: quantity.input.valueAsNumber,
      priceCents: BigInt(Math.round(price.input.valueAsNumber * 100)),
    };
    void write(form, outcome, async () => {
      const { order } = await mesh.client(OrderService).placeOrder({ userId: user.id, items: [item] }, { ...idempotent(), timeoutMs });
      return { key: order?.id ?? "", what: `placed an order of ${item.quantity} × ${item.sku} for ${user.name}` };
    }).then((done) => {
      if (done) {
        sku.input.value = "";
        sku.input.focus();
      }
    });
  });
  return form;
}

/** Opens the dialog that changes or deletes a user through a region. */
export function editUser(mesh: Mesh, region: string, user: User, outcome: Outcome): void {
  const name = field("Name", { name: "name", required: true, maxlength: 200, autocomplete: "off", value: user.name });
  const email = field("Email", { name: "email", type: "email", required: true, maxlength: 254, autocomplete: "off", value: user.email });
  const notice = h("p", { class: "notice", role: "alert" });
  notice.hidden = true;
  const title = h("h2", { id: newId("title") }, `Edit ${user.name}`);
  const form: HTMLFormElement = h(
    "form",
    { "aria-label": `Edit ${user.name}` },
    title,
    h("p", { class: "hint" }, `Through ${region}. Guarded by version ${user.version}: if somebody else is faster, nothing is overwritten.`),
    name.root,
    email.root,
    notice,
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "submit", class: "main" }, "Save"),
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      h("button", { type: "button", class: "danger", onclick: () => void remove() }, "Delete"),
    ),
  );
  const dialog: HTMLDialogElement = h("dialog", { "aria-labelledby": title.id }, form);
  dialog.addEventListener("close", () => dialog.remove());
  const inside: Outcome = {
    written: (w) => outcome.written(w),
    lost: () => outcome.lost(),
    notice(text) {
      notice.textContent = text;
      notice.hidden = text === "";
    },
  };
  const closeIf = (done: boolean) => {
    if (done) {
      dialog.close();
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void write(form, inside, async () => {
      const request = { id: user.id, name: name.input.value.trim(), email: email.input.value.trim(), version: user.version };
      const answer = await mesh.client(UserService).updateUser(request, { ...idempotent(), timeoutMs });
      return { key: answer.user === undefined ? "" : userKey(answer.user), what: `changed user ${request.name}` };
    }).then(closeIf);
  });
  const remove = async () => {
    const done = await write(form, inside, async () => {
      await mesh.client(UserService).deleteUser({ id: user.id, version: user.version }, { ...idempotent(), timeoutMs });
      return { key: `${user.id}@gone`, what: `deleted user ${user.name}` };
    });
    closeIf(done);
  };
  document.body.append(dialog);
  dialog.showModal();
}

