/**
 * Calls a mesh from TypeScript: it carries a session's bookmarks from one call to the next, so that a caller sees its own writes in
 * every region, repeats calls that are safe to repeat, and returns errors that programs can tell apart. docs/typescript.md shows it
 * whole.
 *
 * Messages are at @nearside/client/gen/nearside/….
 */
export { Code } from "@connectrpc/connect";
export { bearer, fixedToken, Login, type LoginOptions, type TokenSource } from "./auth.js";
export { errorDomain, errorOf, NearsideError, typedErrors, type FieldViolation, type Reason } from "./errors.js";
export { header, originOf, type Origin } from "./headers.js";
export { Mesh, type MeshOptions } from "./mesh.js";
export { idempotent, newKey, retry, type RetryOptions } from "./retry.js";
export { maxBookmarks, Session } from "./session.js";
export { fromValue, rowObject, rowObjects, toValue, type Plain } from "./value.js";
export { mustReadAgain, watch, type WatchEvent, type WatchOptions } from "./watch.js";
export { watchQuery, type QueryResult } from "./watchquery.js";

export { AccountService } from "./gen/nearside/auth/v1/account_service_pb.js";
export { AuditService } from "./gen/nearside/auth/v1/audit_service_pb.js";
export { AuthService } from "./gen/nearside/auth/v1/auth_service_pb.js";
export { PolicyService } from "./gen/nearside/auth/v1/policy_service_pb.js";
export { OrderService } from "./gen/nearside/business/v1/order_service_pb.js";
export { UserService } from "./gen/nearside/business/v1/user_service_pb.js";
export { CorsService } from "./gen/nearside/control/v1/cors_service_pb.js";
export { ServiceRegistryService } from "./gen/nearside/control/v1/service_registry_service_pb.js";
export { StatusService } from "./gen/nearside/control/v1/status_service_pb.js";
export { CacheService } from "./gen/nearside/data/v1/cache_service_pb.js";
export { DataService } from "./gen/nearside/data/v1/data_service_pb.js";
export { ErrorReason } from "./gen/nearside/data/v1/error_reason_pb.js";
