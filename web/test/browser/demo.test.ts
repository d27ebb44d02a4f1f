import type { Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test as always } from "vitest";
import { AccountService, nodeMesh, UserService } from "../../src/node.js";
import { AccountKind, Role } from "../../src/gen/nearside/auth/v1/account_pb.js";
import { startRoles, startUp, type Roles } from "../mesh/processes.js";
import { Browser, executablePath, isThere } from "./browser.js";

// What CI lacks, it has to install; elsewhere these tests are left out.
const test = always.skipIf(!isThere && process.env["CI"] !== "true");
if (!isThere) {
  console.error(`missing tool: ${executablePath}: the tests of the page are left out`);
}

const password = "a long password";
const [us, eu] = ["us-east-1", "eu-west-1"] as const;

let mesh: Roles;
let browser: Browser;
let page: Page;
let expected: RegExp[] = [];

beforeAll(async () => {
  if (!isThere) {
    if (process.env["CI"] === "true") {
      throw new Error(`missing tool: ${executablePath}`);
    }
    return;
  }
  mesh = await startRoles();
  const accounts = nodeMesh({ baseUrl: mesh.urls[0] ?? "", credentials: mesh.token }).client(AccountService);
  for (const [name, role] of [["ann", Role.WRITER], ["bob", Role.READER]] as const) {
    await accounts.createAccount({ kind: AccountKind.USER, name, password, grants: [{ role, database: "business" }] });
  }
});
afterAll(async () => mesh?.end());

beforeEach(async () => {
  if (isThere) {
    expected = [];
    browser = await Browser.start(mesh.urls, { test: (text) => expected.some((e) => e.test(text)) });
    page = await browser.open();
    page.setDefaultTimeout(20_000);
  }
});
afterEach(async () => {
  if (isThere) {
    await browser.close();
    expect(browser.complaints).toEqual([]);
    expect(browser.elsewhere).toEqual([]);
  }
});

async function logIn(name: string): Promise<void> {
  await page.goto(`${mesh.urls[0]}/demo/`);
  const form = page.getByRole("form", { name: "Log in with a password" });
  await form.getByLabel("Name").fill(name);
  await form.getByLabel("Password").fill(password);
  await form.getByRole("button", { name: "Log in" }).click();
  for (const region of [us, eu]) {
    await pane(region).getByRole("status").getByText("live").waitFor();
  }
}

function pane(region: string): Locator {
  return page.getByRole("region", { name: region, exact: true });
}

function userIn(region: string, name: string): Locator {
  return page.getByRole("table", { name: `Users in ${region}` }).getByRole("row").filter({ hasText: name });
}

async function addUser(region: string, name: string, email = `${name.toLowerCase().replaceAll(" ", ".")}@example.com`): Promise<void> {
  const form = page.getByRole("form", { name: `Add a user in ${region}` });
  await form.getByLabel("Name").fill(name);
  await form.getByLabel("Email").fill(email);
  await form.getByRole("button", { name: "Add user" }).click();
}

test("the gateway's address leads to the page, and from there to the others", async () => {
  await page.goto(`${mesh.urls[0]}/`);
  expect(page.url()).toBe(`${mesh.urls[0]}/demo/`);
  await page.getByText("With an API key").click();
  await page.getByText("How to get an account").click();
  await browser.picture(page, "log-in-help");
  const card = page.getByRole("main");
  const width = (await card.boundingBox())?.width ?? 0;
  for (const part of await card.locator("input, button, pre, p").all()) {
    expect((await part.boundingBox())?.width ?? 0).toBeLessThan(width); // nothing sticks out
  }
  await page.getByRole("link", { name: "GraphQL" }).click();
  await page.getByRole("button", { name: "Run" }).waitFor();
  await page.goBack();
  await page.getByRole("link", { name: "REST API" }).click();
  await page.getByText("/v1/users:batchGet").waitFor();
  await page.getByText("Batch get users").waitFor();
});

test("a user that is created in one region appears in the other, and what others change too", async () => {
  await page.goto(`${mesh.urls[0]}/demo/`);
  await page.getByRole("form", { name: "Log in with a password" }).waitFor();
  await browser.picture(page, "log-in");
  await logIn("ann");
  await browser.picture(page, "empty");
  await addUser(us, "Ada Lovelace");
  await userIn(us, "Ada Lovelace").waitFor();
  await userIn(eu, "Ada Lovelace").waitFor();

  // The other way, and an order on top.
  await addUser(eu, "Grace Hopper");
  // What somebody calls themselves turns nothing but itself around.
  await addUser(eu, "\u202eralliM nnA", "ann@example.com");
  const created = page.getByRole("list", { name: "What happened" }).getByRole("listitem").filter({ hasText: "created user \u202e" });
  expect(await created.locator("bdi").textContent()).toBe("created user \u202eralliM nnA");
  await userIn(us, "Grace Hopper").getByRole("button", { name: "Orders of Grace Hopper" }).click();
  const form = page.getByRole("form", { name: `Place an order of Grace Hopper in ${eu}` });
  await form.getByLabel("Article").fill("pen");
  await form.getByLabel("Pieces").fill("3");
  await form.getByRole("button", { name: "Place order" }).click();
  for (const region of [us, eu]) {
    const order = page.getByRole("list", { name: `Orders of Grace Hopper in ${region}` }).getByRole("listitem");
    await order.getByText("3 × pen").waitFor();
    await order.getByText("7.50").waitFor();
  }

  // Somebody else changes the first one, with REST.
  const id = (await userIn(us, "Ada Lovelace").getAttribute("data-id")) ?? "";
  const changed = await fetch(`${mesh.urls[1]}/v1/users/${id}`, {
    method: "PATCH",
    headers: { authorization: `Bearer ${mesh.token}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "Ada King" }),
  });
  expect(changed.status).toBe(200);
  for (const region of [us, eu]) {
    await userIn(region, "Ada King").waitFor();
    expect(await userIn(region, "Ada Lovelace").count()).toBe(0);
  }
  await page.getByRole("list", { name: "What happened" }).getByText(/was told of it \d+ ms after/).first().waitFor();
  await page.getByRole("list", { name: "What happened" }).getByText(/was told of user Ada King.* somebody else did/).first().waitFor();
  await browser.picture(page, "two-regions");
  await page.emulateMedia({ colorScheme: "dark" });
  await browser.picture(page, "two-regions-dark");
  await page.setViewportSize({ width: 390, height: 844 });
  await browser.picture(page, "phone");
});

test("a change is guarded, and a user with orders is kept", async () => {
  await logIn("ann");
  await addUser(us, "Alan Turing");
  await userIn(eu, "Alan Turing").getByRole("button", { name: "Edit Alan Turing" }).click();
  const dialog = page.getByRole("dialog", { name: "Edit Alan Turing" });
  await browser.picture(page, "edit");
  // Somebody is faster.
  const id = (await userIn(us, "Alan Turing").getAttribute("data-id")) ?? "";
  const users = nodeMesh({ baseUrl: mesh.urls[0] ?? "", credentials: mesh.token }).client(UserService);
  await users.updateUser({ id, email: "alan@example.org" });
  expected = [/400 \(Bad Request\)/];
  await dialog.getByLabel("Name").fill("Alan M. Turing");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("Somebody else has changed this meanwhile").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();

  await userIn(eu, "alan@example.org").getByRole("button", { name: "Edit Alan Turing" }).click();
  await dialog.getByLabel("Name").fill("Alan M. Turing");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
  await userIn(us, "Alan M. Turing").waitFor();
  await userIn(us, "Alan M. Turing").getByRole("button", { name: /Edit/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  for (const region of [us, eu]) {
    await userIn(region, "Alan M. Turing").waitFor({ state: "detached" });
  }
});

test("a read-only account is refused", async () => {
  await logIn("bob");
  await page.getByText("read only").waitFor();
  expected = [/403 \(Forbidden\)/];
  await addUser(us, "Eve");
  await pane(us).getByRole("alert").getByText("This account may not do this").waitFor();
  await browser.picture(page, "refused");
  expect(await userIn(us, "Eve").count()).toBe(0);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("form", { name: "Log in with a password" }).waitFor();
});

test("a pane shows another region, and goes on when a region is started again", async () => {
  await logIn("ann");
  await pane(us).getByLabel("Region").selectOption(eu);
  await page.getByRole("table", { name: `Users in ${us}` }).waitFor({ state: "detached" });
  expect(await page.getByRole("table", { name: `Users in ${eu}` }).count()).toBe(2);
  await pane(eu).first().getByLabel("Region").selectOption(us);
  await pane(us).getByRole("status").getByText("live").waitFor();
  // The browser itself tells of connections that were refused or cut.
  expected = [/ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET|EMPTY_RESPONSE)/, /50\d \(/];
  await mesh.killRegion(1);
  await pane(eu).getByRole("status").getByText(/connecting again|does not answer/).waitFor();
  await browser.picture(page, "region-gone");
  await addUser(us, "Sofia Kovalevskaya");
  await userIn(us, "Sofia Kovalevskaya").waitFor();
  await mesh.startRegion(1);
  await userIn(eu, "Sofia Kovalevskaya").waitFor();
  await pane(eu).getByRole("status").getByText("live").waitFor();
});

test("a mesh without authentication lets everybody in, at each of its names", async () => {
  const open = await startUp("--insecure-no-auth");
  const own = await Browser.start([...open.urls, ...open.urls.map((u) => u.replace("127.0.0.1", "localhost"))], {
    test: (text) => text.includes("/nearside.auth.v1.AuthService/"), // by which the page finds out
  });
  try {
    page = await own.open();
    await page.goto(`${open.urls[0]?.replace("127.0.0.1", "localhost")}/demo/`);
    await addUser(eu, "Anybody");
    await userIn(us, "Anybody").waitFor();
    await userIn(eu, "Anybody").waitFor();
    expect(own.complaints).toEqual([]);
    expect(own.elsewhere).toEqual([]);
  } finally {
    await own.close();
    await open.end();
  }
});

test("the page cannot be made to talk to others, nor to run what is not its own", async () => {
  await page.goto(`${mesh.urls[0]}/demo/`);
  await page.getByRole("form", { name: "Log in with a password" }).waitFor();
  expected = [/Content Security Policy|TrustedHTML|TrustedScript|violates the following/];
  const tried = await page.evaluate(async (region) => {
    const outcome = async (f: () => unknown) => {
      try {
        return String(await f());
      } catch (error) {
        return (error as Error).name;
      }
    };
    const load = (tag: "img" | "script", src: string) =>
      new Promise((done) => {
        const element = document.createElement(tag);
        element.onload = () => done("loaded");
        element.onerror = () => done("refused");
        element.setAttribute("src", src);
        document.body.append(element);
      });
    return {
      region: await outcome(async () => (await fetch(`${region}/healthz`)).type),
      elsewhere: await outcome(() => fetch("http://127.0.0.1:9/", { mode: "no-cors" })),
      image: await outcome(() => load("img", "http://127.0.0.1:9/x.png")),
      html: await outcome(() => (document.body.innerHTML = "<p>")),
      text: await outcome(() => setTimeout("document.title = 'changed'")),
      title: document.title,
    };
  }, mesh.urls[1] ?? "");
  expect(tried).toEqual({
    region: "cors", elsewhere: "TypeError", image: "refused", html: "TypeError", text: "TypeError", title: "Nearside demo",
  });
  browser.elsewhere.length = 0; // what was refused is noted all the same
});

test("a wrong password is told, and a reload stays logged in", async () => {
  await page.goto(`${mesh.urls[0]}/demo/`);
  const form = page.getByRole("form", { name: "Log in with a password" });
  expected = [/401 \(Unauthorized\)/];
  await form.getByLabel("Name").fill("ann");
  await form.getByLabel("Password").fill("another password");
  await form.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").getByText("The name, the password or the key is wrong.").waitFor();
  await logIn("ann");
  // Many more users than a page of the list has, while it looks on.
  const users = nodeMesh({ baseUrl: mesh.urls[1] ?? "", credentials: mesh.token }).client(UserService);
  const create = (i: number) => users.createUser({ email: `many-${i}@example.com`, name: `Many ${i}` });
  await Promise.all(Array.from({ length: 200 }, (_, i) => create(i)));
  for (const region of [us, eu]) {
    await expect.poll(() => userIn(region, "Many").count(), { timeout: 10_000 }).toBe(200);
  }
  await page.reload();
  await pane(eu).getByRole("status").getByText("live").waitFor();
  const rows = page.getByRole("table", { name: `Users in ${eu}` }).locator("tbody tr");
  expect(await rows.count()).toBe(50);
  await pane(eu).getByRole("button", { name: "Show more" }).click();
  await expect.poll(() => rows.count(), { timeout: 10_000 }).toBe(100);
});

test("the page survives the primary's restart", async () => {
  await logIn("ann");
  await addUser(us, "Kurt Gödel".normalize("NFD").replace(/\p{M}/gu, ""));
  await userIn(eu, "Kurt Godel").waitFor();
  await mesh.killPrimary();
  expected = [/503 \(Service Unavailable\)/];
  await addUser(eu, "Emmy Noether");
  await pane(eu).getByRole("alert").getByText("The primary does not answer").waitFor();
  await pane(eu).getByText("cut off from the primary").waitFor();
  await browser.picture(page, "primary-gone");
  expect(await userIn(us, "Kurt Godel").count()).toBe(1); // reading goes on
  await mesh.startPrimary();
  expected = [/503 \(Service Unavailable\)/];
  const form = page.getByRole("form", { name: `Add a user in ${eu}` });
  await form.getByRole("button", { name: "Add user" }).click();
  for (const region of [us, eu]) {
    await userIn(region, "Emmy Noether").waitFor();
    await pane(region).getByRole("status").getByText("live").waitFor();
  }
});
