import { Code, createClient, createRouterTransport, type Interceptor } from "@connectrpc/connect";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { DataService, idempotent, NearsideError, retry, typedErrors, UserService } from "../../src/index.js";
import { serverError } from "./errors.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A mesh that fails some times before it answers; keys are what its calls carried. */
function world(failures: (() => unknown)[], options?: Parameters<typeof retry>[0]) {
  const keys: (string | null)[] = [];
  const answer = (context: { requestHeader: Headers }) => {
    keys.push(context.requestHeader.get("idempotency-key"));
    const failure = failures.shift();
    if (failure !== undefined) {
      throw failure();
    }
    return {};
  };
  // Stands for a connection that breaks: what is thrown here is no server's.
  const connection: Interceptor = (next) => async (req) => {
    if (failures[0]?.name === "cut") {
      keys.push(req.header.get("idempotency-key"));
      failures.shift();
      throw new TypeError("Failed to fetch");
    }
    return next(req);
  };
  const transport = createRouterTransport(
    ({ service }) => {
      service(DataService, { get: (_, c) => answer(c), transact: (_, c) => answer(c), createDatabase: (_, c) => answer(c) });
      service(UserService, { createUser: (_, c) => answer(c) });
    },
    { transport: { interceptors: [typedErrors, retry(options), connection] } },
  );
  return { data: createClient(DataService, transport), users: createClient(UserService, transport), keys };
}

const cut = () => undefined;
const unavailable = () => serverError(Code.Unavailable, "PRIMARY_UNAVAILABLE");

/** Lets time pass until a call is over. */
async function over<T>(call: Promise<T>): Promise<T> {
  call.catch(() => undefined);
  await vi.runAllTimersAsync();
  return call;
}

test("repeats reads", async () => {
  const { data, keys } = world([unavailable, cut, unavailable]);
  await over(data.get({}));
  expect(keys).toEqual([null, null, null, null]);
});

test("gives up after four tries", async () => {
  const { data, keys } = world([unavailable, unavailable, unavailable, unavailable, unavailable]);
  await expect(over(data.get({}))).rejects.toMatchObject({ reason: "PRIMARY_UNAVAILABLE" });
  expect(keys).toHaveLength(4);
});

test("gives the data API's writes a key, the same for each try, and another one for the next call", async () => {
  const { data, keys } = world([cut, () => serverError(Code.Aborted, "OUTCOME_UNKNOWN")]);
  const headers = new Headers();
  await over(data.transact({}, { headers }));
  await over(data.transact({}, { headers }));
  expect(keys).toHaveLength(4);
  expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  expect(new Set(keys.slice(0, 3)).size).toBe(1);
  expect(keys[3]).not.toBe(keys[0]);
  expect(headers.has("idempotency-key")).toBe(false);
});

test("leaves a request's own key alone", async () => {
  const { data, keys } = world([cut]);
  await over(data.transact({ idempotencyKey: "mine" }));
  expect(keys).toEqual([null, null]);
});

test("repeats other writes only with a key of the caller", async () => {
  const without = world([cut]);
  await expect(over(without.users.createUser({}))).rejects.toBeInstanceOf(NearsideError);
  expect(without.keys).toHaveLength(1);
  const other = world([unavailable]);
  await expect(over(other.data.createDatabase({}))).rejects.toMatchObject({ momentary: true });
  const with_ = world([cut]);
  await over(with_.users.createUser({}, idempotent("order-17")));
  expect(with_.keys).toEqual(["order-17", "order-17"]);
});

test("does not repeat what will fail again", async () => {
  for (const failure of [
    serverError(Code.PermissionDenied, "PERMISSION_DENIED"),
    serverError(Code.Aborted, "BOOKMARK_LOST"),
    serverError(Code.Internal, "CORRUPT"),
    serverError(Code.Unavailable, "PRIMARY_UNAVAILABLE", { retryMs: 60_000 }), // too long to wait for
  ]) {
    const { data, keys } = world([() => failure]);
    await expect(over(data.get({}))).rejects.toThrow();
    expect(keys).toHaveLength(1);
  }
});

test("waits as long as the server says", async () => {
  const { data } = world([() => serverError(Code.Unavailable, "NOT_READY", { retryMs: 1500 })]);
  const begun = Date.now();
  await over(data.get({}));
  expect(Date.now() - begun).toBeGreaterThanOrEqual(1500);
});

test("stops with the call", async () => {
  const { data, keys } = world([unavailable, unavailable]);
  const stop = new AbortController();
  const call = data.get({}, { signal: stop.signal });
  call.catch(() => undefined);
  await vi.advanceTimersByTimeAsync(0);
  stop.abort();
  await expect(over(call)).rejects.toThrow();
  expect(keys).toHaveLength(1);
});
