import { createConnectTransport } from "@connectrpc/connect-node";
import { Mesh, type MeshOptions } from "./mesh.js";

export * from "./index.js";

/** How a gateway is reached from Node. */
export interface NodeOptions {
  /** Such as "http://127.0.0.1:8080". */
  baseUrl: string;
  /** Default "2", over which calls share a connection; also without TLS. */
  httpVersion?: "1.1" | "2";
  /** Protobuf in place of JSON. Default true. */
  useBinaryFormat?: boolean;
  /** Calls without side effects as GET, which caches between here and the gateway understand. Default false. */
  useHttpGet?: boolean;
  /** For TLS: node:tls options such as ca, or those of an http.Agent. */
  nodeOptions?: Record<string, unknown>;
}

/** A mesh as a program under Node reaches it. */
export function nodeMesh(options: NodeOptions & MeshOptions): Mesh {
  return new Mesh((interceptors) => createConnectTransport({ ...reach(options), interceptors }), options);
}

/** A transport for a Login. */
export function nodeTransport(options: NodeOptions): ReturnType<typeof createConnectTransport> {
  return createConnectTransport(reach(options));
}

function reach({ baseUrl, httpVersion, useBinaryFormat, useHttpGet, nodeOptions }: NodeOptions) {
  return {
    baseUrl,
    httpVersion: httpVersion ?? "2",
    useBinaryFormat: useBinaryFormat ?? true,
    useHttpGet: useHttpGet ?? false,
    ...(nodeOptions === undefined ? {} : { nodeOptions }),
  };
}
