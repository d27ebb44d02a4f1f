import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { DataService, errorOf, idempotent, nodeMesh, rowObject, UserService, watch } from "../../src/node.js";
import { startRoles, type Roles } from "./processes.js";

let mesh: Roles;
beforeAll(async () => {
  mesh = await startRoles();
});
afterAll(async () => mesh?.end());

function client(region: number) {
  return nodeMesh({ baseUrl: mesh.urls[region] ?? "", credentials: mesh.token });
}

test("a watch goes on when its region has been killed and started again", async () => {
  const users = client(0).client(UserService);
  const names = ["one", "two", "three", "four"];
  const create = async (name = "") => users.createUser({ email: `${name}@example.com`, name }, idempotent());
  const told: unknown[] = [];
  let resumed = 0;
  let work: Promise<void> | undefined;
  const crash = async () => {
    await create(names[1]);
    await mesh.killRegion(1);
    await create(names[2]); // the region hears of it when it is there again
    await mesh.startRegion(1);
    await create(names[3]);
  };
  for await (const event of watch(client(1).client(DataService), { database: "business", table: "users" }, { onResumed: () => void resumed++ })) {
    if (told.length === 0 && event.changes.length === 0) {
      await create(names[0]);
    }
    for (const { row } of event.changes) {
      told.push(row === undefined ? "gone" : rowObject(event.columns, row)["name"]);
    }
    if (told.length === 1) {
      work ??= crash();
    }
    if (told.length >= names.length) {
      break;
    }
  }
  await work;
  expect(told).toEqual(names);
  expect(resumed).toBe(1);
});

test("without the primary reads go on, and a write that is repeated happens once it is back", async () => {
  const users = client(1).client(UserService);
  const { user } = await users.createUser({ email: "five@example.com", name: "five" }, idempotent());
  const write = { id: user?.id ?? "", name: "cinq" };
  await vi.waitFor(() => client(1).client(UserService).getUser({ id: write.id }), { timeout: 10_000 }); // the region has it
  await mesh.killPrimary();
  const key = idempotent();
  const failed = await users.updateUser(write, key).catch(errorOf);
  expect(failed).toMatchObject({ reason: "PRIMARY_UNAVAILABLE", fromServer: true, momentary: true });
  expect((await client(1).client(UserService).getUser({ id: write.id })).user?.name).toBe("five");
  const started = mesh.startPrimary();
  for (;;) {
    try {
      expect((await users.updateUser(write, key)).user?.name).toBe("cinq");
      break;
    } catch (error) {
      if (errorOf(error)?.momentary !== true) {
        throw error;
      }
    }
  }
  await started;
});
