import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorDomain } from "../../src/index.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.js";

/** An error as a server of a mesh makes it. */
export function serverError(code: Code, reason: string, more: { info?: Record<string, string>; retryMs?: number; field?: string } = {}) {
  const details = [{ desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { domain: errorDomain, reason, metadata: more.info ?? {} }) }];
  const error = new ConnectError(`it failed: ${reason}`, code, undefined, details);
  if (more.retryMs !== undefined) {
    const retryDelay = { seconds: BigInt(Math.floor(more.retryMs / 1000)), nanos: (more.retryMs % 1000) * 1e6 };
    error.details.push({ desc: RetryInfoSchema, value: create(RetryInfoSchema, { retryDelay }) });
  }
  if (more.field !== undefined) {
    const fieldViolations = [{ field: more.field, description: "is wrong" }];
    error.details.push({ desc: BadRequestSchema, value: create(BadRequestSchema, { fieldViolations }) });
  }
  return error;
}
