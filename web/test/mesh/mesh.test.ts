import { Code } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { createGrpcWebTransport as createFetchGrpcWeb } from "@connectrpc/connect-web";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  AccountService, AuthService, DataService, errorOf, idempotent, Login, NearsideError, nodeMesh, nodeTransport, OrderService, originOf,
  rowObject, rowObjects, Session, StatusService, toValue, UserService, watch, watchQuery, Mesh as Client, type NodeOptions,
} from "../../src/node.js";
import { webMesh } from "../../src/web.js";
import { AccountKind, Role } from "../../src/gen/nearside/auth/v1/account_pb.js";
import { Cable, startUp, type Mesh } from "./processes.js";

let mesh: Mesh;
beforeAll(async () => {
  mesh = await startUp();
});
afterAll(async () => mesh?.end());

let unique = 0;
const email = () => `user-${++unique}@example.com`;

function url(region: number): string {
  return mesh.urls[region] ?? "";
}

/** The ways in which a program reaches a gateway. */
const transports: [string, (baseUrl: string, session?: Session) => Client][] = [
  ...(["2", "1.1"] as const).flatMap((httpVersion) =>
    [true, false].map((useBinaryFormat): [string, (baseUrl: string, session?: Session) => Client] => [
      `node, HTTP/${httpVersion}, ${useBinaryFormat ? "protobuf" : "JSON"}`,
      (baseUrl, session) => client({ baseUrl, httpVersion, useBinaryFormat }, session),
    ]),
  ),
  // What a browser does, but for the browser.
  ["fetch, JSON", (baseUrl, session) => webMesh({ baseUrl, credentials: mesh.token, ...(session && { session }) })],
  ["fetch, protobuf, GET", (baseUrl, session) => webMesh({ baseUrl, useBinaryFormat: true, useHttpGet: true, credentials: mesh.token, ...(session && { session }) })],
  // The other protocols, with their own transports.
  ["gRPC", (baseUrl, session) => over((interceptors) => createGrpcTransport({ baseUrl, interceptors }), session)],
  ["gRPC-Web, node", (baseUrl, session) => over((interceptors) => createGrpcWebTransport({ baseUrl, httpVersion: "2", interceptors }), session)],
  ["gRPC-Web, fetch", (baseUrl, session) => over((interceptors) => createFetchGrpcWeb({ baseUrl, interceptors }), session)],
];

function over(transport: ConstructorParameters<typeof Client>[0], session?: Session): Client {
  return new Client(transport, { credentials: mesh.token, ...(session && { session }) });
}

function client(options: NodeOptions, session?: Session): Client {
  return nodeMesh({ ...options, credentials: mesh.token, ...(session && { session }) });
}

describe.each(transports)("%s", (_, open) => {
  test("a session sees in one region what it did in another", async () => {
    const session = new Session();
    const [us, eu] = [open(url(0), session), open(url(1), session)];
    for (let i = 0; i < 5; i++) {
      const { user } = await us.client(UserService).createUser({ email: email(), name: "Ada" });
      let origin = {};
      const onHeader = (h: Headers) => (origin = originOf(h));
      const read = await eu.client(UserService).getUser({ id: user?.id ?? "" }, { onHeader });
      expect(read.user).toEqual(user);
      expect(origin).toMatchObject({ region: "eu-west-1" });
    }
    expect(session.bookmarks).not.toBe("");
  });

  test("errors are typed", async () => {
    const us = open(url(0));
    const missing = await us.client(UserService).getUser({ id: "usr_none" }).catch(errorOf);
    expect(missing).toBeInstanceOf(NearsideError);
    expect(missing).toMatchObject({ code: Code.NotFound, reason: "RESOURCE_NOT_FOUND", info: { resource: "user" }, fromServer: true });
    const wrong = await us.client(UserService).createUser({ email: "no address", name: "" }).catch(errorOf);
    expect(wrong).toMatchObject({ code: Code.InvalidArgument, reason: "FIELD_INVALID" });
    expect((wrong as NearsideError).fields.map((f) => f.field).sort()).toEqual(["email", "name"]);
    const table = await us.client(DataService).query({ database: "demo", statement: { sql: "SELECT * FROM nowhere" } }).catch(errorOf);
    expect(table).toMatchObject({ reason: "STATEMENT_INVALID" });
  });

  test("a watch is told of changes", async () => {
    const [us, eu] = [open(url(0)), open(url(1))];
    const stop = new AbortController();
    const address = email();
    const told: unknown[] = [];
    for await (const event of watch(eu.client(DataService), { database: "business", table: "users", equal: { email: toValue(address) } }, { signal: stop.signal })) {
      const users = us.client(UserService);
      if (told.length === 0) {
        const { user } = await users.createUser({ email: address, name: "Bo" });
        await users.updateUser({ id: user?.id ?? "", name: "Bob" });
        await users.deleteUser({ id: user?.id ?? "" });
      }
      told.push(...event.changes.map((c) => (c.row === undefined ? "gone" : rowObject(event.columns, c.row)["name"])), "commit");
      if (told.at(-2) === "gone") {
        stop.abort();
      }
    }
    expect(told.filter((t) => t !== "commit")).toEqual(["Bo", "Bob", "gone"]);
  });
});

test("a call that is stopped says so, and is not repeated", async () => {
  const us = client({ baseUrl: url(0) });
  const failed = await us.client(StatusService).getStatus({}, { timeoutMs: 1 }).catch(errorOf);
  expect(failed).toMatchObject({ code: Code.DeadlineExceeded });
  const stop = new AbortController();
  stop.abort();
  await expect(us.client(StatusService).getStatus({}, { signal: stop.signal })).rejects.toMatchObject({ code: Code.Canceled });
});

test("values keep what they are", async () => {
  const data = client({ baseUrl: url(0) }).client(DataService);
  const parameters = [9007199254740993n, 1.5, "žluťoučký", new Uint8Array([0, 255]), null].map(toValue);
  const { result } = await data.query({ database: "demo", statement: { sql: "SELECT ?1 AS a, ?2 AS b, ?3 AS c, ?4 AS d, ?5 AS e", parameters } });
  expect(rowObjects(result)).toEqual([{ a: 9007199254740993n, b: 1.5, c: "žluťoučký", d: new Uint8Array([0, 255]), e: null }]);
});

describe("over a connection that breaks", () => {
  for (const httpVersion of ["2", "1.1"] as const) {
    test(`HTTP/${httpVersion}: a write happens once, and reads go on`, async () => {
      const cable = await Cable.to(url(0));
      try {
        const us = client({ baseUrl: cable.url, httpVersion });
        const users = us.client(UserService);
        const { user } = await users.createUser({ email: email(), name: "Cy" });
        const id = user?.id ?? "";
        cable.cut();
        setTimeout(() => cable.mend(), 60);
        expect((await users.getUser({ id })).user?.name).toBe("Cy");
        cable.cut();
        setTimeout(() => cable.mend(), 60);
        const request = { email: email(), name: "Di" };
        const key = idempotent();
        const once = await users.createUser(request, key);
        const again = await users.createUser(request, key);
        expect(again.user).toEqual(once.user);
        // Without a key nobody knows whether it happened, so it is not repeated.
        cable.cut();
        const failed = await users.createUser({ email: email(), name: "Ed" }).catch(errorOf);
        expect(failed).toMatchObject({ fromServer: false, momentary: true });
      } finally {
        await cable.close();
      }
    });

    test(`HTTP/${httpVersion}: a watch misses nothing and is told nothing twice`, async () => {
      const cable = await Cable.to(url(1));
      try {
        const users = client({ baseUrl: url(0) }).client(UserService);
        const eu = client({ baseUrl: cable.url, httpVersion });
        const names = Array.from({ length: 12 }, (_, i) => `watched ${httpVersion} ${i}`);
        const told: unknown[] = [];
        let interrupted = 0;
        let written: Promise<void> | undefined;
        const write = async () => {
          for (const [i, name] of names.entries()) {
            await users.createUser({ email: email(), name });
            if (i % 4 === 1) {
              cable.cut();
            } else if (i % 4 === 3) {
              cable.mend();
            }
          }
        };
        for await (const event of watch(eu.client(DataService), { database: "business", table: "users" }, { onInterrupted: () => void interrupted++ })) {
          written ??= write();
          const changed = event.changes.flatMap((c) => (c.row === undefined ? [] : [rowObject(event.columns, c.row)["name"]]));
          told.push(...changed.filter((name) => String(name).startsWith(`watched ${httpVersion} `))); // others' may be on their way
          if (told.length >= names.length) {
            break;
          }
        }
        await written;
        expect(told).toEqual(names);
        expect(interrupted).toBeGreaterThan(0);
      } finally {
        await cable.close();
      }
    });

    test(`HTTP/${httpVersion}: a watched query goes on`, async () => {
      const cable = await Cable.to(url(1));
      try {
        const data = client({ baseUrl: url(0) }).client(DataService);
        const sql = `SELECT count(*) AS n FROM greetings WHERE id > ${1000 + unique * 10}`;
        const insert = async () => {
          const statement = { sql: "INSERT INTO greetings (id, text) SELECT max(max(id), 5000) + 1, 'Hej' FROM greetings" };
          await data.execute({ database: "demo", statement });
        };
        const seen: unknown[] = [];
        let base = 0n;
        const eu = client({ baseUrl: cable.url, httpVersion }).client(DataService);
        for await (const { result } of watchQuery(eu, { database: "demo", statement: { sql } })) {
          const n = rowObjects(result)[0]?.["n"] as bigint;
          base = seen.length === 0 ? n : base;
          seen.push(n - base);
          if (seen.length === 1) {
            await insert();
          } else if (seen.length === 2) {
            cable.cut();
            await insert();
            cable.mend();
          } else {
            break;
          }
        }
        expect(seen).toEqual([0n, 1n, 2n]);
      } finally {
        await cable.close();
      }
    });
  }
});

describe("logging in", () => {
  test("with a password, resumed, ended", async () => {
    const admin = client({ baseUrl: url(0) });
    await admin.client(AccountService).createAccount({
      kind: AccountKind.USER, name: "ann", password: "a long password", grants: [{ role: Role.READER, database: "business" }],
    });
    const transport = nodeTransport({ baseUrl: url(1) });
    const login = new Login(transport);
    await expect(login.password("ann", "wrong password")).rejects.toMatchObject({ reason: "UNAUTHENTICATED" });
    await login.password("ann", "a long password");
    const eu = nodeMesh({ baseUrl: url(1), credentials: login, session: new Session(admin.session.bookmarks) });
    await vi.waitFor(async () => { // the region hears of ann in its own time
      const { allowed } = await eu.client(AuthService).authorize({ action: "/nearside.data.v1.DataService/Get", database: "business" });
      expect(allowed).toBe(true);
    }, { timeout: 10_000 });
    const refused = await eu.client(UserService).createUser({ email: email(), name: "Flo" }).catch(errorOf);
    expect(refused).toMatchObject({ code: Code.PermissionDenied, reason: "PERMISSION_DENIED" });

    const again = new Login(transport);
    await again.resume(login.tokens?.refreshToken ?? "");
    const users = nodeMesh({ baseUrl: url(1), credentials: again }).client(UserService);
    await users.listUsers({});
    await again.end();
    await expect(again.resume("nsr_none")).rejects.toMatchObject({ code: Code.Unauthenticated });
    await expect(users.listUsers({})).rejects.toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("with an API key", async () => {
    const login = new Login(nodeTransport({ baseUrl: url(0) }));
    await login.apiKey(mesh.token);
    const us = nodeMesh({ baseUrl: url(0), credentials: login });
    const { user } = await us.client(UserService).createUser({ email: email(), name: "Gil" });
    const item = { sku: "pen", quantity: 2, priceCents: 275n };
    const { order } = await us.client(OrderService).placeOrder({ userId: user?.id ?? "", items: [item] }, idempotent());
    expect(order?.totalCents).toBe(550n);
    const refused = await us.client(OrderService).placeOrder({ userId: user?.id ?? "", items: [{ ...item, priceCents: 90_000_000n }] }).catch(errorOf);
    expect(refused).toMatchObject({ reason: "RULE_VIOLATED", info: { rule: "order_total_limit" } });
  });
});
