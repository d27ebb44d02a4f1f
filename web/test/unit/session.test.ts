import { Code, createClient, createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { DataService, maxBookmarks, Session } from "../../src/index.js";
import { serverError } from "./errors.js";

// Bookmarks of two databases; their beginnings name these.
const a1 = "04000001aaaa", a2 = "04000001bbbb", b1 = "04000002aaaa";

test("keeps the newest of each database, the last heard of at the end", () => {
  const s = new Session(a1);
  s.add(`${b1}, ${a2}`);
  expect(s.bookmarks).toBe(`${b1},${a2}`);
  s.add(a1); // older: it has been heard of all the same
  expect(s.bookmarks).toBe(`${b1},${a2}`);
  s.add("", " , ");
  expect(s.bookmarks).toBe(`${b1},${a2}`);
  expect(new Session(s.bookmarks).bookmarks).toBe(s.bookmarks);
  s.clear();
  expect(s.bookmarks).toBe("");
});

test("forgets the database that it has not heard of for the longest time", () => {
  const s = new Session();
  for (let i = 0; i < maxBookmarks + 5; i++) {
    s.add(`${String(i).padStart(8, "0")}x`);
  }
  expect(s.bookmarks.split(",")).toHaveLength(maxBookmarks);
  expect(s.bookmarks.startsWith("00000005x")).toBe(true);
});

function world(session: Session, seen: (string | null)[]) {
  const transport = createRouterTransport(
    ({ service }) => {
      service(DataService, {
        get(_, context) {
          seen.push(context.requestHeader.get("nearside-bookmark"));
          context.responseHeader.set("nearside-bookmark", a2);
          return {};
        },
        query(_, context) {
          seen.push(context.requestHeader.get("nearside-bookmark"));
          const error = serverError(Code.NotFound, "TABLE_NOT_FOUND");
          error.metadata.set("nearside-bookmark", b1);
          throw error;
        },
        async *watch(_, context) {
          seen.push(context.requestHeader.get("nearside-bookmark"));
          context.responseHeader.set("nearside-bookmark", a2);
          yield {};
          context.responseTrailer.set("nearside-bookmark", b1);
        },
      });
    },
    { transport: { interceptors: [session.interceptor] } },
  );
  return createClient(DataService, transport);
}

test("carries bookmarks from call to call", async () => {
  const session = new Session(), seen: (string | null)[] = [];
  const data = world(session, seen);
  await data.get({});
  await data.get({}, { headers: { "nearside-bookmark": b1 } }); // the call's own are sent too
  await data.get({});
  expect(seen).toEqual([null, `${a2},${b1}`, a2]);
});

test("learns from failures", async () => {
  const session = new Session(), seen: (string | null)[] = [];
  await expect(world(session, seen).query({})).rejects.toThrow();
  expect(session.bookmarks).toBe(b1);
});

test("learns from streams, at their begin and their end", async () => {
  const session = new Session(), seen: (string | null)[] = [];
  for await (const _ of world(session, seen).watch({})) {
    expect(session.bookmarks).toBe(a2);
  }
  expect(session.bookmarks).toBe(`${a2},${b1}`);
});
