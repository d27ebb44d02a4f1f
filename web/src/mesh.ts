import type { DescService } from "@bufbuild/protobuf";
import { createClient, type Client, type Interceptor, type Transport } from "@connectrpc/connect";
import { bearer, fixedToken, type TokenSource } from "./auth.js";
import { typedErrors } from "./errors.js";
import { retry, type RetryOptions } from "./retry.js";
import { Session } from "./session.js";

/** How a mesh is called. */
export interface MeshOptions {
  /** Shared with other gateways' clients, say. Default: one of its own. */
  session?: Session;
  /** A Login, or an access token or API key. Default: none. */
  credentials?: TokenSource | string;
  /** false leaves repeating to somebody else. */
  retry?: RetryOptions | false;
  /** Stand inside the mesh's own, so they see each repeat and its headers. */
  interceptors?: Interceptor[];
}

/** Calls services through one gateway. Its calls fail with NearsideError. */
export class Mesh {
  /** The session that the calls are part of. */
  readonly session: Session;
  /** For clients that are made elsewhere. */
  readonly transport: Transport;

  /** Most programs use webMesh of @nearside/client/web, or nodeMesh of @nearside/client/node. */
  constructor(newTransport: (interceptors: Interceptor[]) => Transport, options: MeshOptions = {}) {
    this.session = options.session ?? new Session();
    const own: Interceptor[] = [typedErrors];
    // The repeat is outside the session, so that each try carries the bookmarks of its own time.
    if (options.retry !== false) {
      own.push(retry(options.retry));
    }
    own.push(this.session.interceptor);
    if (options.credentials !== undefined) {
      const { credentials } = options;
      own.push(bearer(typeof credentials === "string" ? fixedToken(credentials) : credentials));
    }
    this.transport = newTransport([...own, ...(options.interceptors ?? [])]);
  }

  /** A client of a service: of the mesh's own, or of any that is registered there. */
  client<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.transport);
  }
}
