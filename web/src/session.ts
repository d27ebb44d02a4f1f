import { ConnectError, type Interceptor } from "@connectrpc/connect";
import { header } from "./headers.js";
import { watched } from "./stream.js";

/** How many bookmarks one header may hold, and so how many databases a session remembers. */
export const maxBookmarks = 32;

// The text of a format byte and a database's id: 40 bits, five in each letter.
const databaseLength = 8;

/**
 * Remembers the newest bookmark of each database that its calls met and sends them with the next calls, so that no call
 * answers from a state before what the session has seen or done, in whichever region it is answered. Of calls that run at the
 * same time, neither waits for the other's bookmark.
 *
 * It remembers 32 databases. Beyond that it forgets the one that it has not heard of for the longest time.
 */
export class Session {
  #bookmarks: string[] = []; // one for each database, the last heard of at the end

  /** Begins with the given bookmarks; each may be one, or several separated by commas. */
  constructor(...bookmarks: string[]) {
    this.add(...bookmarks);
  }

  /** Makes later calls see at least what the bookmarks name. Older ones than the session's change nothing. */
  add(...bookmarks: string[]): void {
    this.#bookmarks = merge(this.#bookmarks, bookmarks).slice(-maxBookmarks);
  }

  /**
   * What the session has seen, in the form of the header nearside-bookmark: separated by commas, empty if it has seen nothing.
   * new Session(text) goes on from there, in another page or process too.
   */
  get bookmarks(): string {
    return this.#bookmarks.join(",");
  }

  /** Forgets everything, as is right after BOOKMARK_LOST: another primary took over without what the session saw. */
  clear(): void {
    this.#bookmarks = [];
  }

  /** The session as an interceptor, for any client of a mesh. */
  readonly interceptor: Interceptor = (next) => async (req) => {
    const own = req.header.get(header.bookmark);
    const text = merge(this.#bookmarks, own === null ? [] : [own]).join(",");
    if (text !== "") {
      req.header.set(header.bookmark, text);
    }
    try {
      const res = await next(req);
      this.#receive(res.header);
      if (!res.stream) {
        return res;
      }
      const message = watched(res.message, {
        failed: (error) => this.#failed(error),
        ended: () => this.#receive(res.trailer),
      });
      return { ...res, message };
    } catch (error) {
      // A failure is an observation too: a session that was told "no such row" must not see it again later.
      this.#failed(error);
      throw error;
    }
  };

  #receive(headers: Headers): void {
    const text = headers.get(header.bookmark);
    if (text !== null) {
      this.add(text);
    }
  }

  #failed(error: unknown): void {
    if (error instanceof ConnectError) {
      this.#receive(error.metadata);
    }
  }
}

/**
 * Returns a list with the newest bookmark of each database in have (one for each database) and headers (texts with commas),
 * those of headers last. Bookmarks are opaque here but for this: they sort by age within a database, which their beginning names.
 */
function merge(have: readonly string[], headers: readonly string[]): string[] {
  const list = [...have];
  for (const part of headers.flatMap((text) => text.split(","))) {
    let bookmark = part.trim();
    if (bookmark === "") {
      continue;
    }
    const database = bookmark.slice(0, databaseLength);
    const i = list.findIndex((b) => b.slice(0, databaseLength) === database);
    if (i >= 0) {
      const [old] = list.splice(i, 1);
      if (old !== undefined && old > bookmark) {
        bookmark = old;
      }
    }
    list.push(bookmark);
  }
  return list;
}
