import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, type CallOptions, type Client } from "@connectrpc/connect";
import { failed, type NearsideError } from "./errors.js";
import { WatchRequestSchema, type DataService, type WatchResponse_Change } from "./gen/nearside/data/v1/data_service_pb.js";
import type { Column } from "./gen/nearside/data/v1/value_pb.js";
import { pause } from "./pause.js";

/** One commit's changes of what is watched, or none: then only the bookmark has moved on. */
export interface WatchEvent {
  /** In the order of the rows' keys, all that the commit did to what is watched. */
  changes: WatchResponse_Change[];
  /** Where the watch is after the event, and what it takes the table for: given in another request, they have it go on from here. */
  bookmark: string;
  schema: string;
  /** Those of the rows. */
  columns: Column[];
  /** The names of those of the keys. */
  keyColumns: string[];
}

/** How to watch. */
export interface WatchOptions {
  /** Ends the watch, without an error. */
  signal?: AbortSignal;
  /** Of each stream that is opened. */
  headers?: CallOptions["headers"];
  /** Is told of each stream that ended and will be opened again. */
  onInterrupted?: (error: NearsideError) => void;
  /** Is told that a stream was opened again and has said its first. */
  onResumed?: () => void;
}

const firstDelayMs = 50;
const maxDelayMs = 2000;
/** A region says every few seconds that nothing has changed. One that does not is gone, whatever the connection says. */
const defaultSilenceMs = 30_000;

/**
 * Watches a table through a region's gateway. The first event has no changes: it says where the watch begins. The watch is opened
 * again, from its last bookmark, when the connection or the region ends it, with pauses that grow up to 2 s; nothing is missed and
 * nothing is told twice. It ends when the signal says so, and with an error when it cannot be begun and when the rows have to be
 * read again (see mustReadAgain). Leaving the loop ends it too.
 */
export async function* watch(
  data: Pick<Client<typeof DataService>, "watch">,
  request: MessageInitShape<typeof WatchRequestSchema>,
  options: WatchOptions & { silenceMs?: number } = {},
): AsyncGenerator<WatchEvent, void, undefined> {
  const next = create(WatchRequestSchema, request);
  const silenceMs = options.silenceMs ?? defaultSilenceMs;
  let begun = false;
  for (let attempt = 0; ; attempt++) {
    const stream = new Stream((o) => data.watch(next, o), options, silenceMs);
    let columns: Column[] = [];
    let keyColumns: string[] = [];
    let pending: WatchResponse_Change[] = [];
    try {
      for (let m = await stream.next(); m !== undefined; m = await stream.next()) {
        attempt = 0;
        const first = m.schema !== "";
        if (first) {
          next.schema = m.schema;
          columns = m.columns;
          keyColumns = m.keyColumns;
        }
        pending.push(...m.changes);
        if (m.answer === undefined) {
          continue; // the commit has more
        }
        next.bookmark = m.answer.bookmark;
        if (first && begun) {
          options.onResumed?.();
          continue;
        }
        begun = true;
        const changes = pending;
        pending = [];
        yield { changes, bookmark: next.bookmark, schema: next.schema, columns, keyColumns };
      }
    } finally {
      stream.close();
    }
    if (!(await stream.again(begun, attempt))) {
      return;
    }
  }
}

/** Whether a watch ended because what was told no longer leads to what is there: read the rows again, and watch from there. */
export function mustReadAgain(error: unknown): boolean {
  return failed(error).is("BOOKMARK_TOO_OLD", "BOOKMARK_LOST", "SCHEMA_CHANGED");
}

/** Whether a watch that ended with an error can be opened again. */
function goesOn(error: NearsideError): boolean {
  return !error.fromServer || error.code === Code.Unavailable || error.is("OVERLOADED", "TOKEN_EXPIRED");
}

/** One stream of a watch. Its next does not throw: again says how it ended. */
export class Stream<T> {
  readonly #abort = new AbortController();
  readonly #options: WatchOptions;
  readonly #silenceMs: number;
  #messages: AsyncIterator<T> | undefined;
  #error: unknown;

  constructor(open: (options: CallOptions) => AsyncIterable<T>, options: WatchOptions, silenceMs = 0) {
    this.#options = options;
    this.#silenceMs = silenceMs;
    const signals = [this.#abort.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const call: CallOptions = { signal: AbortSignal.any(signals) };
    if (options.headers !== undefined) {
      call.headers = options.headers;
    }
    try {
      this.#messages = open(call)[Symbol.asyncIterator]();
    } catch (error) {
      this.#error = error;
    }
  }

  /** The next message; undefined at the end. */
  async next(): Promise<T | undefined> {
    if (this.#messages === undefined) {
      return undefined;
    }
    const timer = this.#silenceMs > 0 ? setTimeout(() => this.#abort.abort(), this.#silenceMs) : undefined;
    try {
      const result = await this.#messages.next();
      return result.done === true ? undefined : result.value;
    } catch (error) {
      this.#error = this.#abort.signal.aborted ? "the region has been silent for too long" : error;
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the stream, whether or not it has come to its end. */
  close(): void {
    this.#abort.abort();
  }

  /**
   * Waits, if the watch is to be opened again, and says whether it is. It throws what the watch ends with. A watch that has not begun
   * is not opened again.
   */
  async again(begun: boolean, attempt: number): Promise<boolean> {
    const { signal, onInterrupted } = this.#options;
    if (signal?.aborted === true) {
      return false;
    }
    const error = failed(this.#error ?? "the stream ended");
    if (!begun || !goesOn(error)) {
      throw error;
    }
    onInterrupted?.(error);
    const backoff = Math.min(firstDelayMs * 2 ** Math.min(attempt, 10), maxDelayMs);
    const delay = Math.max((backoff * (1 + Math.random())) / 2, Math.min(error.retryAfterMs, maxDelayMs));
    return pause(delay, signal);
  }
}
