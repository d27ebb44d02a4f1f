import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import type { ErrorReason } from "./gen/nearside/data/v1/error_reason_pb.js";
import { watched } from "./stream.js";

/** The domain of the reasons below, in google.rpc.ErrorInfo. */
export const errorDomain = "nearside.dev";

/** Why a call failed; docs/errors.md lists the reasons. A newer server may send one that this build does not know. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED"> | (string & {});

/** A field of a request that breaks its rule. */
export interface FieldViolation {
  /** Such as "statement.sql". */
  field: string;
  rule: string;
}

/**
 * A failed call. All calls of a Mesh fail with one; for other clients, use errorOf. It is a ConnectError, so what handles those
 * handles this.
 */
export class NearsideError extends ConnectError {
  /** Empty if the server gave none. */
  readonly reason: Reason;
  /** What goes with the reason: {"rule": "order_total_limit"}. */
  readonly info: Readonly<Record<string, string>>;
  /** With FIELD_INVALID. */
  readonly fields: readonly FieldViolation[];
  /** When a repeat may succeed; 0 if that was not said. */
  readonly retryAfterMs: number;
  /** Whether a server said it. If not, the connection failed, or the caller ended the call. */
  readonly fromServer: boolean;

  constructor(from: unknown) {
    const wire = ConnectError.from(from, Code.Unavailable);
    super(wire.rawMessage, codeOf(wire, from), wire.metadata, undefined, wire.cause ?? (wire === from ? undefined : from));
    this.details = wire.details;
    this.fromServer = said(from);
    const info = this.findDetails(ErrorInfoSchema).find((d) => d.domain === errorDomain);
    this.reason = info?.reason ?? "";
    this.info = info?.metadata ?? {};
    this.fields = this.findDetails(BadRequestSchema)
      .flatMap((d) => d.fieldViolations)
      .map((v) => ({ field: v.field, rule: v.description }));
    const delay = this.findDetails(RetryInfoSchema)[0]?.retryDelay;
    this.retryAfterMs = delay === undefined ? 0 : Math.max(0, durationMs(delay));
  }

  // ConnectError's own would take every ConnectError for one of these.
  static override [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && NearsideError.prototype.isPrototypeOf(value);
  }

  /** Whether the call failed for one of the reasons. */
  is(...reasons: Reason[]): boolean {
    return this.reason !== "" && reasons.includes(this.reason);
  }

  /** Whether the same call may succeed soon: nobody could answer it at the moment, or its outcome is not known. */
  get momentary(): boolean {
    if (!this.fromServer) {
      return this.code !== Code.Canceled && this.code !== Code.DeadlineExceeded;
    }
    return this.code === Code.Unavailable || this.reason === "OUTCOME_UNKNOWN";
  }
}

/**
 * The code of a failed call. Of a connection that failed, transports say this and that: "internal" of a certificate, "aborted" of
 * a reset, and of an HTTP/2 stream that was cut "canceled", as of a call that the caller ended.
 */
function codeOf(wire: ConnectError, from: unknown): Code {
  const ended = wire.code === Code.DeadlineExceeded || (wire.code === Code.Canceled && !wasReset(wire));
  return said(from) || ended ? wire.code : Code.Unavailable;
}

/** Whether a server answered with the error, and it is not this side's word for a connection that failed. */
function said(error: unknown): boolean {
  return error instanceof ConnectError && error.cause === undefined && !wasReset(error);
}

/** Whether an error is what connect-node says of a stream that was reset. */
function wasReset(error: ConnectError): boolean {
  return error.rawMessage.startsWith("http/2 stream closed");
}

/** Finds the failed call in an error. It is undefined if the error is of another kind: a mistake in the program, say. */
export function errorOf(error: unknown): NearsideError | undefined {
  if (error instanceof NearsideError) {
    return error;
  }
  return error instanceof ConnectError ? new NearsideError(error) : undefined;
}

/** The failed call of an error that came out of a transport, where others than ConnectErrors are failed connections. */
export function failed(error: unknown): NearsideError {
  return error instanceof NearsideError ? error : new NearsideError(error);
}

/** Makes the errors of calls NearsideErrors. */
export const typedErrors: Interceptor = (next) => async (req) => {
  try {
    const res = await next(req);
    if (!res.stream) {
      return res;
    }
    const message = watched(res.message, {
      failed(error) {
        throw failed(error);
      },
    });
    return { ...res, message };
  } catch (error) {
    throw failed(error);
  }
};
