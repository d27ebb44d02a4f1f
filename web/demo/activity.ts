import { h, timeText } from "./dom.js";

const maxShown = 50;
const maxRemembered = 200;
// When it is clear that no answer to a write of this page is on its way.
const othersAfterMs = 1500;
const maxWaiting = 20;

interface Fact {
  sentAt?: number;
  from?: string;
  seen: Map<string, number>; // by region
}

/** What happened, the newest first, and how long it took to get about. */
export class Activity {
  readonly list = h("ol", { class: "activity", "aria-label": "What happened", "aria-live": "polite" });
  readonly #facts = new Map<string, Fact>();
  #waiting = 0;

  /** Something was written through a region. */
  written(key: string, what: string, from: string, sentAt: number, tookMs: number): void {
    const fact = this.#fact(key);
    fact.sentAt = sentAt;
    fact.from = from;
    this.#add(from, [h("bdi", {}, what), ` — answered after ${tookMs.toFixed(0)} ms`]);
    for (const [region, at] of fact.seen) {
      this.#spread(region, fact, at);
    }
  }

  /** A region's watch has told of it; what is said where this page has not done it. */
  seen(key: string, region: string, what: string): void {
    const fact = this.#fact(key);
    if (fact.seen.has(region)) {
      return;
    }
    const at = performance.now();
    fact.seen.set(region, at);
    this.#spread(region, fact, at);
    if (this.#waiting === maxWaiting) {
      return; // others are busy: not each of their writes is told
    }
    this.#waiting++;
    setTimeout(() => {
      this.#waiting--;
      if (fact.sentAt === undefined) {
        this.#add(region, ["was told of ", h("bdi", {}, what), ", which somebody else did"], "told");
      }
    }, othersAfterMs);
  }

  #spread(region: string, fact: Fact, at: number): void {
    if (fact.sentAt === undefined) {
      return;
    }
    const ms = at - fact.sentAt;
    this.#add(region, [`was told of it ${ms.toFixed(0)} ms after it was sent to ${fact.from}`], "told");
  }

  #fact(key: string): Fact {
    let fact = this.#facts.get(key);
    if (fact === undefined) {
      fact = { seen: new Map() };
      this.#facts.set(key, fact);
      for (const oldest of this.#facts.keys()) {
        if (this.#facts.size <= maxRemembered) {
          break;
        }
        this.#facts.delete(oldest);
      }
    }
    return fact;
  }

  /** Parts that others have written stand in elements of their own: they may be written from the right, or say that they are. */
  #add(region: string, text: (Node | string)[], kind = ""): void {
    this.list.prepend(
      h("li", { class: kind }, h("time", {}, timeText(new Date())), h("b", {}, region), h("span", {}, ...text)),
    );
    while (this.list.children.length > maxShown) {
      this.list.lastElementChild?.remove();
    }
  }
}
