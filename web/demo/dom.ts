/** Attributes, listeners (onclick, …) and what else an element is to have; false and undefined leave an attribute out. */
export type Props = Record<string, string | number | boolean | undefined | ((event: Event) => unknown)>;

/** Makes an element. Texts become text: nothing is ever parsed as HTML. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: (Node | string | undefined)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((c) => c !== undefined));
  return element;
}

/** A labelled input. */
export function field(label: string, props: Props): { root: HTMLLabelElement; input: HTMLInputElement } {
  const input = h("input", props);
  return { root: h("label", { class: "field" }, h("span", {}, label), input), input };
}

/** The page's name and sign. */
export function brand(): HTMLElement {
  const sign = h("img", { src: new URL("./icon.svg", import.meta.url).href, alt: "" });
  return h("div", { class: "brand" }, sign, h("h1", {}, "Nearside demo"));
}

/** The gateway's other pages. */
export function pages(): HTMLElement {
  return h(
    "nav",
    { class: "pages", "aria-label": "Other pages" },
    h("a", { href: "/docs/" }, "REST API"),
    h("a", { href: "/graphiql" }, "GraphQL"),
  );
}

let ids = 0;

/** An id that no other element has. */
export function newId(prefix: string): string {
  return `${prefix}-${++ids}`;
}

const timeFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const moneyFormat = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export function timeText(date: Date): string {
  return timeFormat.format(date);
}

export function moneyText(cents: bigint): string {
  return moneyFormat.format(Number(cents) / 100);
}

/** Has an element stand out for a moment. */
export function flash(element: HTMLElement): void {
  element.classList.remove("flash");
  void element.offsetWidth; // so that the animation begins anew
  element.classList.add("flash");
}
