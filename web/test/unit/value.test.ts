import { expect, test } from "vitest";
import { fromValue, newKey, originOf, rowObjects, toValue, type Plain } from "../../src/index.js";

test("values come back as they went", () => {
  const bytes = new Uint8Array([1, 2]);
  for (const v of [null, 5n, -(2n ** 63n), 2n ** 63n - 1n, 1.5, -0, Infinity, "", "Bonjour", bytes] satisfies Plain[]) {
    expect(fromValue(toValue(v))).toStrictEqual(v);
  }
  expect(fromValue(toValue(7))).toBe(7n);
  expect(fromValue(toValue(2 ** 60))).toBe(2 ** 60); // not exact as a number, so a REAL
  expect(fromValue(toValue(true))).toBe(1n);
  expect(fromValue(undefined)).toBeNull();
  expect(() => toValue(2n ** 63n)).toThrow(RangeError);
  for (const none of [undefined, {}, [1], new Date(0), Symbol("s"), () => 1]) {
    expect(() => toValue(none as never)).toThrow(TypeError); // and is no empty blob
  }
});

test("rows become objects", () => {
  const column = (name: string) => ({ $typeName: "nearside.data.v1.Column" as const, name, declaredType: "" });
  const row = { $typeName: "nearside.data.v1.Row" as const, values: [toValue(1), toValue("x")], version: 0n };
  const [object] = rowObjects({ columns: [column("id"), column("__proto__"), column("absent")], rows: [row] });
  expect(Object.entries(object ?? {})).toEqual([["id", 1n], ["__proto__", "x"], ["absent", null]]);
  expect(rowObjects(undefined)).toEqual([]);
});

test("headers say where an answer is from", () => {
  const say = (h: Record<string, string>) => originOf(new Headers(h));
  expect(say({ "nearside-region": "eu", "nearside-source": "MEMORY", "nearside-staleness-ms": "12" })).toEqual({
    region: "eu", source: "MEMORY", stalenessMs: 12,
  });
  expect(say({ "nearside-source": "ELSEWHERE", "nearside-staleness-ms": "-1" })).toEqual({});
});

test("keys are different", () => {
  expect(new Set(Array.from({ length: 100 }, newKey)).size).toBe(100);
});
