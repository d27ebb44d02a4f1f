import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test as always, vi } from "vitest";
import { build } from "vite";
import { Code, CorsService, nodeMesh, UserService, type Mesh as Client } from "../../src/node.js";
import { startUp, type Mesh } from "../mesh/processes.js";
import { Browser, executablePath, isThere } from "./browser.js";
import type { Format, Outcome, Target } from "./grpcweb/page.js";

// Google's client of gRPC-Web, as it is, in a browser and on a page of another origin.

const test = always.skipIf(!isThere && process.env["CI"] !== "true");

declare const grpcweb: typeof import("./grpcweb/page.js");

let mesh: Mesh;
let admin: Client;
let site: Server;
let origin: string;
let browser: Browser;
let page: Page;

beforeAll(async () => {
  if (!isThere) {
    if (process.env["CI"] === "true") {
      throw new Error(`missing tool: ${executablePath}`);
    }
    console.error(`missing tool: ${executablePath}: the tests of grpc-web are left out`);
    return;
  }
  const script = await bundle();
  site = createServer((req, res) => {
    const isScript = req.url === "/page.js";
    res.setHeader("Content-Type", isScript ? "text/javascript" : "text/html");
    res.end(isScript ? script : '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>');
  });
  await new Promise<void>((listening) => site.listen(0, "127.0.0.1", listening));
  origin = `http://127.0.0.1:${(site.address() as AddressInfo).port}`;
  mesh = await startUp();
  admin = nodeMesh({ baseUrl: mesh.urls[0] ?? "", credentials: mesh.token });
  await admin.client(CorsService).setCorsPolicy({ policy: { origins: [origin] } });
  browser = await Browser.start([...mesh.urls, origin], { test: () => false });
  page = await browser.open();
  await page.goto(origin);
  await page.waitForFunction(() => "grpcweb" in globalThis);
});
afterAll(async () => {
  await browser?.close();
  site?.close();
  await mesh?.end();
  expect(browser?.complaints ?? []).toEqual([]);
  expect(browser?.elsewhere ?? []).toEqual([]);
});

/** The page's script, as a bundler makes it. */
async function bundle(): Promise<string> {
  const built = await build({
    configFile: false,
    logLevel: "warn",
    build: { write: false, minify: false, lib: { entry: join(import.meta.dirname, "grpcweb/page.ts"), formats: ["es"], fileName: "page" } },
  });
  const chunk = [built].flat().flatMap((b) => ("output" in b ? b.output : []))[0];
  if (chunk?.type !== "chunk") {
    throw new Error("vite made no script");
  }
  return chunk.code;
}

function target(format: Format, metadata: Target["metadata"] = { authorization: `Bearer ${mesh.token}` }): Target {
  return { url: mesh.urls[1] ?? "", format, metadata };
}

function unary(to: Target, name: "createUser" | "getUser", init: Record<string, unknown>): Promise<Outcome> {
  return page.evaluate(([t, n, i]) => grpcweb.unary(t, n, i), [to, name, init] as const);
}

describe.each(["text", "binary"] as const)("%s", (format) => {
  test("a unary call", async () => {
    const name = "Žofie 😀 " + "n".repeat(100);
    const created = await unary(target(format), "createUser", { email: `${format}@example.com`, name });
    expect(created).toMatchObject({ code: 0, messages: [{ user: { email: `${format}@example.com`, name } }] });
    const { id } = (created.messages[0] as { user: { id: string } }).user;
    // The region hears of it in its own time.
    await vi.waitFor(async () => expect(await unary(target(format), "getUser", { id })).toEqual(created), { timeout: 10_000 });
  });

  test("an error has its code, its message and its metadata", async () => {
    const missing = await unary(target(format), "getUser", { id: "usr_nobody" });
    expect(missing).toMatchObject({ code: Code.NotFound, message: "no user has this id" });
    expect(atob(missing.metadata["grpc-status-details-bin"] ?? "")).toContain("RESOURCE_NOT_FOUND");
    expect(missing.metadata["nearside-region"]).toBe("eu-west-1");
    const wrong = await unary(target(format), "createUser", { email: "no address", name: "N" });
    expect(wrong).toMatchObject({ code: Code.InvalidArgument, message: expect.stringContaining("email") });
  });

  test("callers show who they are", async () => {
    expect(await unary(target(format, {}), "getUser", { id: "usr_nobody" })).toMatchObject({ code: Code.Unauthenticated });
    const forged = target(format, { authorization: "Bearer nonsense" });
    expect(await unary(forged, "getUser", { id: "usr_nobody" })).toMatchObject({ code: Code.Unauthenticated });
  });
});

test("a server stream: changes arrive while it lasts", async () => {
  const users = admin.client(UserService);
  let begun = false;
  await page.exposeFunction("started", async () => {
    begun = true;
    const { user } = await users.createUser({ email: "watched@example.com", name: "Ada" });
    await users.updateUser({ id: user?.id ?? "", name: "Ada King" });
    await users.deleteUser({ id: user?.id ?? "" });
  });
  const watched = await page.evaluate((to) => grpcweb.watch(to, "users", 3, () => (globalThis as unknown as { started(): void }).started()), target("text"));
  expect(begun).toBe(true);
  expect(watched.code).toBe(0);
  expect(JSON.stringify(watched.messages[0])).toContain('"Ada"');
  expect(JSON.stringify(watched.messages[1])).toContain('"Ada King"');
  expect(watched.messages[2]).not.toHaveProperty("row");
});

test("a server stream that is refused says why", async () => {
  const refused = await page.evaluate((to) => grpcweb.watch(to, "nowhere", 1, () => undefined), target("text"));
  expect(refused).toMatchObject({ code: Code.NotFound, message: expect.stringContaining("nowhere") });
});

test("a server stream ends at its deadline", async () => {
  const until = target("text", { authorization: `Bearer ${mesh.token}`, deadline: String(Date.now() + 2000) });
  const ended = await page.evaluate((to) => grpcweb.watch(to, "users", 1, () => undefined), until);
  expect(ended).toMatchObject({ code: Code.DeadlineExceeded, message: "context deadline exceeded" }); // the gateway says so
});
