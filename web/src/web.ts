import { createConnectTransport } from "@connectrpc/connect-web";
import { Mesh, type MeshOptions } from "./mesh.js";

export * from "./index.js";

/** How a gateway is reached from a browser. */
export interface WebOptions {
  /** Such as "https://eu.example.org". Default: where the page came from. */
  baseUrl?: string;
  /** Default: globalThis.fetch. */
  fetch?: typeof globalThis.fetch;
  /** Protobuf in place of JSON: smaller, and not to be read in a browser's tools. Default false. */
  useBinaryFormat?: boolean;
  /** Calls without side effects as GET, which caches between here and the gateway understand. Default false. */
  useHttpGet?: boolean;
}

/** A mesh as a browser's page reaches it. */
export function webMesh(options: WebOptions & MeshOptions = {}): Mesh {
  return new Mesh((interceptors) => createConnectTransport({ ...reach(options), interceptors }), options);
}

/** A transport for a Login. */
export function webTransport(options: WebOptions = {}): ReturnType<typeof createConnectTransport> {
  return createConnectTransport(reach(options));
}

function reach({ baseUrl, fetch, useBinaryFormat, useHttpGet }: WebOptions) {
  const url = baseUrl ?? globalThis.location?.origin;
  if (url === undefined) {
    throw new TypeError("baseUrl is missing: nothing but a page has a gateway that it came from");
  }
  return {
    baseUrl: url,
    useBinaryFormat: useBinaryFormat ?? false,
    useHttpGet: useHttpGet ?? false,
    ...(fetch === undefined ? {} : { fetch }),
  };
}
