import { timestampDate } from "@bufbuild/protobuf/wkt";
import { header, OrderService, type Mesh, type WatchEvent } from "../src/web.js";
import type { Order } from "../src/gen/nearside/business/v1/order_pb.js";
import type { Follower, State } from "./follow.js";
import { flash, h, moneyText, timeText } from "./dom.js";

const maxShown = 100;

/** What a list of orders tells. */
export interface OrdersEvents {
  state(state: State, text: string): void;
  /** A region has told of an order. */
  seen(id: string): void;
}

/** A user's orders in a region, the newest first. */
export class Orders implements Follower {
  readonly root: HTMLElement;
  readonly #list: HTMLOListElement;
  readonly #empty = h("p", { class: "empty" }, "No orders yet.");
  readonly #mesh: Mesh;
  readonly #userId: string;
  readonly #events: OrdersEvents;

  constructor(mesh: Mesh, userId: string, label: string, events: OrdersEvents) {
    this.#mesh = mesh;
    this.#userId = userId;
    this.#events = events;
    this.#list = h("ol", { class: "orders", "aria-label": label });
    this.#empty.hidden = true;
    this.root = h("div", {}, this.#list, this.#empty);
  }

  state(state: State, text: string): void {
    this.#events.state(state, text);
  }

  async read(bookmark: string): Promise<void> {
    const { orders } = await this.#mesh
      .client(OrderService)
      .listOrders({ userId: this.#userId, pageSize: maxShown }, { headers: { [header.bookmark]: bookmark } });
    this.#list.replaceChildren(...orders.reverse().map(item));
    this.#empty.hidden = orders.length > 0;
  }

  async changed(event: WatchEvent): Promise<void> {
    const orders = this.#mesh.client(OrderService);
    for (const change of event.changes) {
      const id = change.key[0]?.kind.value;
      if (typeof id !== "string") {
        continue;
      }
      const present = this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`);
      if (change.row === undefined) {
        present?.remove();
        continue;
      }
      this.#events.seen(id);
      // The items are rows of another table, of the same commit or an earlier one: the event's bookmark asks for at least that.
      const { order } = await orders.getOrder({ id }, { headers: { [header.bookmark]: event.bookmark } });
      if (order === undefined) {
        continue;
      }
      const entry = item(order);
      if (present === null) {
        this.#list.prepend(entry);
      } else {
        present.replaceWith(entry);
      }
      flash(entry);
    }
    while (this.#list.children.length > maxShown) {
      this.#list.lastElementChild?.remove();
    }
    this.#empty.hidden = this.#list.children.length > 0;
  }
}

function item(order: Order): HTMLLIElement {
  const what = order.items.map((i) => `${i.quantity} × ${i.sku}`).join(", ");
  return h(
    "li",
    { "data-id": order.id },
    h("span", {}, what),
    h("b", {}, moneyText(order.totalCents)),
    h("time", {}, order.createTime === undefined ? "" : timeText(timestampDate(order.createTime))),
  );
}
