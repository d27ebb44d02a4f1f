import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test as always } from "vitest";
import { startRoles, type Roles } from "../mesh/processes.js";
import { Browser, isThere } from "./browser.js";

// demo.test.ts says what is missing.
const test = always.skipIf(!isThere && process.env["CI"] !== "true");

let mesh: Roles;
let browser: Browser;
let page: Page;
let expected: RegExp[] = [];

beforeAll(async () => {
  if (isThere) {
    mesh = await startRoles();
  }
});
afterAll(async () => mesh?.end());

beforeEach(async () => {
  if (isThere) {
    expected = [];
    browser = await Browser.start(mesh.urls, { test: (text) => expected.some((e) => e.test(text)) });
    page = await browser.open();
    page.setDefaultTimeout(20_000);
    await page.goto(`${mesh.urls[0]}/graphiql`);
    await page.getByLabel("Token").fill(mesh.token);
  }
});
afterEach(async () => {
  if (isThere) {
    await browser.close();
    expect(browser.complaints).toEqual([]);
    expect(browser.elsewhere).toEqual([]);
  }
});

const operation = () => page.getByRole("textbox", { name: "Operation" });
const answer = () => page.locator("#answer");
const state = () => page.getByRole("status");

async function run(query: string, variables = "{}"): Promise<void> {
  await operation().fill(query);
  await page.getByLabel("Variables").fill(variables);
  await operation().press("Control+Enter");
}

test("operations with variables and headers, errors that lead to their place, and a history", async () => {
  await page.getByLabel("Headers, one a line").fill("Idempotency-Key: page-1");
  for (let i = 0; i < 2; i++) { // the key makes both one
    await run("mutation ($email: String!) { createUser(email: $email, name: \"Ada\") { id email } }", '{"email": "ada@example.com"}');
    await answer().getByText('"email": "ada@example.com"').waitFor();
  }
  await page.getByText(/200 in \d+ ms, us-east-1/).waitFor();
  await run("{ users { email orders { id } } }");
  await answer().getByText('"orders": []').waitFor();
  await browser.picture(page, "graphiql");

  expected = [/400 \(Bad Request\)/];
  await run("query {\n  users { nothing }\n}");
  const error = page.getByRole("alert").getByRole("listitem");
  await error.getByText(/Cannot query field "nothing".*GRAPHQL_VALIDATION_FAILED/).waitFor();
  await error.getByRole("button", { name: "line 2" }).click();
  expect(await page.evaluate(() => {
    const e = document.activeElement as HTMLTextAreaElement;
    return e.value.slice(e.selectionStart, e.selectionEnd);
  })).toBe("nothing");
  await run("{ user(id: \"nobody\") { id } }");
  await error.getByText("no user has this id (not_found RESOURCE_NOT_FOUND) at user").waitFor();
  await run("{ users { id } }", "{");
  await answer().getByText(/The variables are no JSON/).waitFor();
  await page.getByLabel("Headers, one a line").fill("no header");
  await run("{ users { id } }");
  await state().getByText("No header: no header").waitFor();
  await page.getByLabel("Headers, one a line").fill("");

  // Of several operations one is chosen.
  await run("query first { users { id } }\nquery second { users { email } }");
  await page.getByLabel("Which one").selectOption("second");
  await page.getByRole("button", { name: "Run" }).click();
  await answer().getByText('"email": "ada@example.com"').waitFor();

  await page.reload();
  expect(await page.getByLabel("Token").inputValue()).toBe("");
  await page.getByText("History").click();
  await page.getByRole("button", { name: /^mutation \(\$email/ }).click();
  expect(await operation().inputValue()).toContain("createUser");
  expect(await page.getByLabel("Variables").inputValue()).toBe('{"email": "ada@example.com"}');
  expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain(mesh.token);
  await page.getByRole("button", { name: "Forget all" }).click();
  expect(await page.getByRole("button", { name: /^mutation/ }).count()).toBe(0);
});

test("the schema is walked through, searched, and used", async () => {
  const schema = page.getByRole("region", { name: "Schema" });
  await page.getByRole("button", { name: "Load" }).click();
  await state().getByText(/\d+ types/).waitFor();
  await schema.getByRole("searchbox").fill("createUser");
  await schema.getByRole("listitem").filter({ hasText: "createUser(email: String!, name: String!): User" }).getByRole("button", { name: "Use", exact: true }).click();
  expect(await operation().inputValue()).toContain("mutation createUser($email: String!, $name: String!) {");
  await page.getByLabel("Variables").fill('{"email": "grace@example.com", "name": "Grace"}');
  await page.getByRole("button", { name: "Run" }).click();
  await answer().getByText('"email": "grace@example.com"').waitFor();
  await schema.getByRole("button", { name: "User", exact: true }).first().click();
  await schema.locator('details[data-name="User"][open]').getByText("orders(pageSize: Int, pageToken: String): [Order!]").waitFor();
  await browser.picture(page, "graphiql-schema");

  // Completion of a field, with the keyboard.
  await operation().fill("");
  await operation().pressSequentially("{ users { orders { totalC");
  await page.getByRole("option", { name: "totalCents" }).waitFor();
  await operation().press("Tab");
  expect(await operation().inputValue()).toBe("{ users { orders { totalCents");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 844 });
  await browser.picture(page, "graphiql-phone");
});

test("a subscription shows what happens, and goes on after it was cut off", async () => {
  await run('subscription { watchQuery(database: "business", statement: {sql: "SELECT count(*) FROM users"}) { result { rows { values { integer } } } } }');
  const counted = async () => /"integer": "(\d+)"/.exec((await answer().textContent()) ?? "")?.[1];
  await answer().getByText('"integer"').first().waitFor();
  const before = Number(await counted());
  const create = async (email: string) => {
    const res = await fetch(`${mesh.urls[1]}/v1/users`, {
      method: "POST", headers: { authorization: `Bearer ${mesh.token}`, "content-type": "application/json" },
      body: JSON.stringify({ email, name: "N" }),
    });
    expect(res.status).toBe(201);
  };
  await create("one@example.com");
  await answer().getByText(`"integer": "${before + 1}"`).first().waitFor();
  expected = [/ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|CONNECTION_RESET|EMPTY_RESPONSE)/, /50\d \(/];
  await mesh.killRegion(0);
  await state().getByText(/cut off after \d+ events, again in|again in/).waitFor();
  await create("two@example.com");
  await mesh.startRegion(0);
  await answer().getByText(`"integer": "${before + 2}"`).first().waitFor({ timeout: 40_000 });
  await page.getByRole("button", { name: "Stop" }).click();
  await state().getByText("stopped").waitFor();
});
