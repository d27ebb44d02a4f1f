import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { mustReadAgain, toValue, watch, watchQuery, type WatchEvent } from "../../src/index.js";
import {
  WatchQueryResponseSchema,
  WatchResponse_ChangeSchema,
  WatchResponseSchema,
  type WatchQueryRequest,
  type WatchRequest,
} from "../../src/gen/nearside/data/v1/data_service_pb.js";
import { serverError } from "./errors.js";

// Time passes as fast as nobody has anything to do but wait.
beforeEach(() => void vi.useFakeTimers().setTimerTickMode("nextTimerAsync"));
afterEach(() => void vi.useRealTimers());

type Told = { bookmark?: string; schema?: string; keys?: string[] } | Error | "cut" | "silence";

/** A region whose streams tell what they are given; requests are what they were opened with. */
function region(...streams: Told[][]) {
  const requests: { bookmark: string; schema: string }[] = [];
  const signals: AbortSignal[] = [];
  return {
    requests,
    signals,
    async *watch(request: unknown, options?: { signal?: AbortSignal }) {
      const { bookmark, schema } = request as WatchRequest;
      requests.push({ bookmark, schema });
      const signal = options?.signal ?? new AbortController().signal;
      signals.push(signal);
      for (const told of streams.shift() ?? [new Error("no more streams")]) {
        if (told === "cut") {
          throw new TypeError("network error");
        }
        if (told === "silence") {
          await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
        } else if (told instanceof Error) {
          throw told;
        } else {
          yield create(WatchResponseSchema, {
            schema: told.schema ?? "",
            keyColumns: told.schema === undefined ? [] : ["id"],
            changes: (told.keys ?? []).map((text) => create(WatchResponse_ChangeSchema, { key: [toValue(text)] })),
            ...(told.bookmark === undefined ? {} : { answer: { bookmark: told.bookmark } }),
          });
        }
      }
    },
  };
}

async function all(events: AsyncIterable<WatchEvent>, max = 100): Promise<{ events: string[]; error?: unknown }> {
  const list: string[] = [];
  try {
    for await (const e of events) {
      list.push(`${e.bookmark}:${e.changes.map((c) => c.key[0]?.kind.value).join()}`);
      expect(e.keyColumns).toEqual(["id"]);
      if (list.length === max) {
        break;
      }
    }
  } catch (error) {
    return { events: list, error };
  }
  return { events: list };
}

const request = { database: "d", table: "t" };

test("puts a commit's parts together", async () => {
  const data = region([{ bookmark: "1", schema: "s" }, { keys: ["a"] }, { keys: ["b"], bookmark: "2" }, { bookmark: "3" }]);
  expect((await all(watch(data, request), 3)).events).toEqual(["1:", "2:a,b", "3:"]);
  expect(data.signals[0]?.aborted).toBe(true); // leaving the loop ends the stream
});

test("goes on from the last bookmark, with half a commit forgotten", async () => {
  const interrupted = vi.fn(), resumed = vi.fn();
  const data = region(
    [{ bookmark: "1", schema: "s" }, { keys: ["a"], bookmark: "2" }, { keys: ["b"] }, "cut"],
    ["cut"],
    [serverError(Code.Unavailable, "WATCH_INTERRUPTED")],
    [serverError(Code.ResourceExhausted, "OVERLOADED")],
    [{ bookmark: "2", schema: "s" }, { keys: ["b", "c"], bookmark: "3" }, serverError(Code.OutOfRange, "BOOKMARK_TOO_OLD")],
  );
  const { events, error } = await all(watch(data, request, { onInterrupted: interrupted, onResumed: resumed }));
  expect(events).toEqual(["1:", "2:a", "3:b,c"]);
  expect(mustReadAgain(error)).toBe(true);
  expect(data.requests).toEqual([
    { bookmark: "", schema: "" },
    ...Array.from({ length: 4 }, () => ({ bookmark: "2", schema: "s" })),
  ]);
  expect(interrupted).toHaveBeenCalledTimes(4);
  expect(resumed).toHaveBeenCalledTimes(1);
});

test("does not go on where it could not begin, or may not", async () => {
  expect((await all(watch(region(["cut"]), request))).error).toMatchObject({ fromServer: false });
  const data = region([{ bookmark: "1", schema: "s" }, serverError(Code.PermissionDenied, "PERMISSION_DENIED")]);
  const { events, error } = await all(watch(data, request));
  expect(events).toEqual(["1:"]);
  expect(error).toMatchObject({ reason: "PERMISSION_DENIED" });
  expect(mustReadAgain(error)).toBe(false);
});

test("ends quietly with its signal, also while it waits", async () => {
  const stop = new AbortController();
  const data = region([{ bookmark: "1", schema: "s" }, "silence"]);
  setTimeout(() => stop.abort(), 1000);
  expect(await all(watch(data, request, { signal: stop.signal }))).toEqual({ events: ["1:"] });
  const broken = region([{ bookmark: "1", schema: "s" }, "cut"]);
  const again = new AbortController();
  expect(await all(watch(broken, request, { signal: again.signal, onInterrupted: () => again.abort() }))).toEqual({ events: ["1:"] });
});

test("takes a silent region for gone", async () => {
  const data = region([{ bookmark: "1", schema: "s" }, "silence"], [{ bookmark: "1", schema: "s" }, { keys: ["a"], bookmark: "2" }]);
  expect((await all(watch(data, request), 2)).events).toEqual(["1:", "2:a"]);
  expect(data.requests).toHaveLength(2);
});

test("a watched query does not repeat an answer, and goes on from the last one", async () => {
  const requests: string[] = [];
  const streams = [["1", "1", "2"], ["2", "3"]];
  const data = {
    async *watchQuery(req: unknown) {
      requests.push((req as WatchQueryRequest).consistency?.bookmark ?? "");
      for (const n of streams.shift() ?? []) {
        const rows = [{ values: [{ kind: { case: "integer" as const, value: BigInt(n) } }] }];
        yield create(WatchQueryResponseSchema, { result: { rows }, answer: { bookmark: `b${n}` } });
      }
      throw new TypeError("network error");
    },
  };
  const seen: unknown[] = [];
  for await (const { result, answer } of watchQuery(data, { database: "d", statement: { sql: "SELECT 1" } })) {
    seen.push([result.rows[0]?.values[0]?.kind.value, answer.bookmark]);
    if (seen.length === 3) {
      break;
    }
  }
  expect(seen).toEqual([[1n, "b1"], [2n, "b2"], [3n, "b3"]]);
  expect(requests).toEqual(["", "b2"]);
});
