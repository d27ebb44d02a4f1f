import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { errorOf, NearsideError } from "../../src/index.js";
import { failed } from "../../src/errors.js";
import { serverError } from "./errors.js";

describe("NearsideError", () => {
  test("has what the details say", () => {
    const wire = serverError(Code.ResourceExhausted, "OVERLOADED", { info: { scope: "identity" }, retryMs: 1250, field: "sql" });
    const e = errorOf(wire);
    expect(e).toBeInstanceOf(NearsideError);
    expect(e).toBeInstanceOf(ConnectError);
    expect(e).toBeInstanceOf(Error);
    expect(e).toMatchObject({
      code: Code.ResourceExhausted,
      reason: "OVERLOADED",
      info: { scope: "identity" },
      fields: [{ field: "sql", rule: "is wrong" }],
      retryAfterMs: 1250,
      fromServer: true,
      momentary: false,
    });
    expect(e?.is("NOT_READY", "OVERLOADED")).toBe(true);
    expect(e?.is("NOT_READY")).toBe(false);
  });

  test("is made once", () => {
    const e = failed(serverError(Code.NotFound, "TABLE_NOT_FOUND"));
    expect(failed(e)).toBe(e);
    expect(errorOf(e)).toBe(e);
  });

  test("takes no other domain's reasons for the mesh's", () => {
    const wire = new ConnectError("no", Code.Internal);
    expect(errorOf(wire)).toMatchObject({ reason: "", info: {}, fromServer: true, momentary: false });
    expect(errorOf(wire)?.is("")).toBe(false);
  });

  test("knows failed connections from answers", () => {
    const broken = failed(new TypeError("Failed to fetch"));
    expect(broken).toMatchObject({ code: Code.Unavailable, fromServer: false, momentary: true });
    expect(failed("missing EndStreamResponse")).toMatchObject({ fromServer: false, momentary: true });
    expect(failed(new DOMException("stopped", "AbortError"))).toMatchObject({ code: Code.Canceled, momentary: false });
    const certificate = new ConnectError("self-signed certificate", Code.Internal, undefined, undefined, new Error("self-signed certificate"));
    expect(failed(certificate)).toMatchObject({ code: Code.Unavailable, fromServer: false });
    const reset = failed(new ConnectError("http/2 stream closed with error code CANCEL (0x8)", Code.Canceled));
    expect(reset).toMatchObject({ code: Code.Unavailable, fromServer: false, momentary: true });
  });

  test("is not every ConnectError, and no error of a program", () => {
    expect(new ConnectError("x")).not.toBeInstanceOf(NearsideError);
    expect(errorOf(new TypeError("x is undefined"))).toBeUndefined();
  });
});
