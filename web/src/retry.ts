import type { DescMethod } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import type { CallOptions, Interceptor, UnaryRequest } from "@connectrpc/connect";
import { failed } from "./errors.js";
import { header } from "./headers.js";
import { pause } from "./pause.js";

/** How calls are repeated. */
export interface RetryOptions {
  /** Default 4. */
  tries?: number;
  /** The first pause, doubled for each further try. Default 50. */
  firstDelayMs?: number;
  /** A server that asks for a longer pause is not waited for. Default 2000. */
  maxDelayMs?: number;
}

/**
 * Returns an interceptor that repeats unary calls which failed for a moment, where a repeat cannot do harm.
 *
 * Repeated are calls to which nobody answered, or that failed with unavailable or OUTCOME_UNKNOWN, and that either have no side
 * effects or carry an idempotency key. The data API's writes are given a key if they have none; other services' calls are
 * repeated if the caller set one (see idempotent). Streams are not repeated here: watch and watchQuery go on by themselves.
 */
export function retry(options: RetryOptions = {}): Interceptor {
  const { tries = 4, firstDelayMs = 50, maxDelayMs = 2000 } = options;
  return (next) => async (req) => {
    if (req.stream) {
      return next(req);
    }
    if (takesKey(req.method) && keyOf(req) === "") {
      // It is a copy of the caller's headers, who may use them again for another call.
      req = { ...req, header: new Headers(req.header) };
      req.header.set(header.idempotencyKey, newKey());
    }
    for (let attempt = 1; ; attempt++) {
      try {
        return await next({ ...req, header: new Headers(req.header) });
      } catch (cause) {
        const error = failed(cause);
        const backoff = firstDelayMs * 2 ** (attempt - 1);
        const delay = Math.max(error.retryAfterMs, (backoff * (1 + Math.random())) / 2);
        const repeats = attempt < tries && delay <= maxDelayMs && error.momentary && repeatable(req);
        if (!repeats || !(await pause(delay, req.signal))) {
          throw error;
        }
      }
    }
  };
}

/** Call options with an idempotency key: the call happens once, however often it is repeated under that key. Default: a new one. */
export function idempotent(key: string = newKey()): CallOptions {
  return { headers: { [header.idempotencyKey]: key } };
}

/** A new idempotency key: 128 random bits. */
export function newKey(): string {
  // Not randomUUID: pages without TLS do not have it.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

function repeatable(req: UnaryRequest): boolean {
  return req.method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS || keyOf(req) !== "";
}

function takesKey(method: DescMethod): boolean {
  return method.input.fields.some((f) => f.name === "idempotency_key" && f.fieldKind === "scalar");
}

function keyOf(req: UnaryRequest): string {
  const key: unknown = (req.message as { idempotencyKey?: unknown }).idempotencyKey;
  return typeof key === "string" && key !== "" ? key : (req.header.get(header.idempotencyKey) ?? "");
}
