import { Code, createClient, createRouterTransport } from "@connectrpc/connect";
import { expect, test, vi } from "vitest";
import { AuthService, bearer, DataService, fixedToken, Login, typedErrors } from "../../src/index.js";
import { serverError } from "./errors.js";

/** An access token that lives for ten minutes; its times are those of another clock. */
function token(n: number): string {
  const text = (o: unknown) => btoa(JSON.stringify(o)).replaceAll("=", "");
  return [text({ alg: "EdDSA" }), text({ iat: 5_000_000, exp: 5_000_600, jti: n }), "x"].join(".");
}

function world() {
  const w = { now: 0, made: 0, good: new Set<string>(), calls: [] as string[], keys: [] as (string | null)[], fails: undefined as Error | undefined, shown: [] as (string | null)[] };
  const next = () => {
    if (w.fails !== undefined) {
      throw w.fails;
    }
    w.made++;
    w.good = new Set([token(w.made)]);
    return { tokens: { accessToken: token(w.made), refreshToken: `nsr_${w.made}`, sessionId: "s_1" } };
  };
  const transport = createRouterTransport(({ service }) => {
    service(AuthService, {
      authenticate(req) {
        w.calls.push(`authenticate ${req.credential.case}`);
        if (req.credential.case === "password" && req.credential.value.password !== "right") {
          throw serverError(Code.Unauthenticated, "UNAUTHENTICATED");
        }
        return next();
      },
      refreshToken(req, context) {
        w.calls.push(`refresh ${req.refreshToken}`);
        w.keys.push(context.requestHeader.get("idempotency-key"));
        return next();
      },
      revokeToken(req, context) {
        w.calls.push(`revoke ${req.target.value} ${context.requestHeader.get("authorization") !== null}`);
        return {};
      },
    });
  });
  const changed = vi.fn();
  const login = new Login(transport, { clock: () => w.now, onChange: changed });
  const check = (context: { requestHeader: Headers }) => {
    const shown = context.requestHeader.get("authorization")?.replace("Bearer ", "") ?? null;
    w.shown.push(shown);
    if (shown === null || !w.good.has(shown)) {
      throw serverError(Code.Unauthenticated, "TOKEN_EXPIRED");
    }
  };
  const data = createClient(
    DataService,
    createRouterTransport(
      ({ service }) => {
        service(DataService, {
          get(_, context) {
            check(context);
            return {};
          },
          async *watch(_, context) {
            check(context);
            yield {};
          },
        });
      },
      { transport: { interceptors: [typedErrors, bearer(login)] } },
    ),
  );
  return { w, login, data, changed };
}

test("replaces the token before it ends, once for all calls", async () => {
  const { w, login, data, changed } = world();
  await login.password("ann", "right");
  await data.get({});
  w.now = 479_000;
  await data.get({});
  w.now = 481_000; // of 600,000
  await Promise.all([data.get({}), data.get({}), data.get({})]);
  expect(w.calls).toEqual(["authenticate password", "refresh nsr_1"]);
  expect(w.shown.slice(2)).toEqual([token(2), token(2), token(2)]);
  expect(changed).toHaveBeenCalledTimes(2);
});

test("makes a refused call once more", async () => {
  const { w, login, data } = world();
  await login.password("ann", "right");
  w.good.clear(); // the mesh's clock is ahead
  await data.get({});
  expect(w.shown).toEqual([token(1), token(2)]);
  await login.refused(token(1)); // somebody is late: there is another one already
  expect(w.made).toBe(2);
});

test("a stream that is opened again has another token", async () => {
  const { w, login, data } = world();
  await login.password("ann", "right");
  w.good.clear();
  const open = async () => {
    for await (const _ of data.watch({})) {
      // one message
    }
  };
  await expect(open()).rejects.toMatchObject({ reason: "TOKEN_EXPIRED" });
  await open();
  expect(w.made).toBe(2);
});

test("goes on with what it has while nobody answers", async () => {
  const { w, login } = world();
  await login.password("ann", "right");
  w.now = 700_000;
  w.fails = serverError(Code.Unavailable, "PRIMARY_UNAVAILABLE");
  expect(await login.token()).toBe(token(1));
  w.fails = undefined;
  expect(await login.token()).toBe(token(2));
});

test("shows a refresh token under the same key until there is another one", async () => {
  const { w, login } = world();
  w.fails = new Error("the answer was lost");
  await expect(login.resume("nsr_0")).rejects.toThrow();
  w.fails = undefined;
  await login.resume("nsr_0");
  w.now = 700_000;
  w.fails = serverError(Code.Unavailable, "PRIMARY_UNAVAILABLE");
  await login.token();
  w.fails = undefined;
  await login.token();
  expect(w.calls).toEqual(["refresh nsr_0", "refresh nsr_0", "refresh nsr_1", "refresh nsr_1"]);
  expect(w.keys[0]).toMatch(/^[0-9a-f]{32}$/);
  expect(w.keys[1]).toBe(w.keys[0]);
  expect(w.keys[2]).not.toBe(w.keys[1]);
  expect(w.keys[3]).toBe(w.keys[2]);
});

test("ends when the mesh says so", async () => {
  const { w, login, changed } = world();
  await login.password("ann", "right");
  w.now = 700_000;
  w.fails = serverError(Code.Unauthenticated, "TOKEN_INVALID");
  await expect(login.token()).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
  expect(login.tokens).toBeUndefined();
  expect(changed).toHaveBeenLastCalledWith(undefined);
  expect(await login.token()).toBeUndefined();
});

test("an API key is shown again", async () => {
  const { w, login } = world();
  await login.apiKey("nsk_1");
  w.now = 700_000;
  await login.token();
  expect(w.calls).toEqual(["authenticate apiKey", "authenticate apiKey"]);
});

test("a wrong password is an error and changes nothing", async () => {
  const { login, changed } = world();
  await expect(login.password("ann", "wrong")).rejects.toMatchObject({ reason: "UNAUTHENTICATED", code: Code.Unauthenticated });
  expect(changed).not.toHaveBeenCalled();
});

test("resumes and ends", async () => {
  const { w, login } = world();
  await login.resume("nsr_0");
  await login.end();
  expect(w.calls).toEqual(["refresh nsr_0", "revoke s_1 true"]);
  expect(await login.token()).toBeUndefined();
  await login.end();
  expect(w.calls).toHaveLength(2);
});

test("a fixed token is what it is", async () => {
  expect(await fixedToken("nsk_1").token()).toBe("nsk_1");
  expect(await fixedToken("nsk_1").refused("nsk_1")).toBe(false);
});

test("a token is taken as files have it, and what is none is told at once", async () => {
  expect(await fixedToken("nsk_abc\n").token()).toBe("nsk_abc");
  for (const none of ["nsk abc", "nsk\nabc", "klíč"]) {
    expect(() => fixedToken(none)).toThrow(TypeError);
  }
});
