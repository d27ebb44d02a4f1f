import { create, fromBinary, toBinary, toJson, type DescMessage, type DescMethod, type JsonValue, type Message, type MessageInitShape } from "@bufbuild/protobuf";
import { GrpcWebClientBase, MethodDescriptor, MethodType, RpcError, type Metadata } from "grpc-web";
import { DataService, UserService } from "../../../src/index.js";

// What a page does with Google's client of gRPC-Web. Its generated clients make these descriptors and calls; here they are made of this
// package's messages, since the client takes whatever reads and writes bytes.

/** How an answer is written: in base64 ("text"), as it is by default and as streams need it, or in bytes. */
export type Format = "text" | "binary";

export interface Target {
  url: string;
  format: Format;
  metadata: Metadata;
}

/** How a call ended. */
export interface Outcome {
  messages: JsonValue[];
  /** Of an answer that ended well, 0. */
  code: number;
  message: string;
  /** What came with the status. */
  metadata: Metadata;
}

function descriptor({ parent, name, methodKind, input, output }: DescMethod): MethodDescriptor<Message, Message> {
  return new MethodDescriptor<Message, Message>(
    `/${parent.typeName}/${name}`,
    methodKind === "unary" ? MethodType.UNARY : MethodType.SERVER_STREAMING,
    class {} as never, // the client makes no messages itself
    class {} as never,
    (message: Message) => toBinary(input, message),
    (bytes: Uint8Array) => fromBinary(output, bytes),
  );
}

function failure(error: unknown): Outcome {
  if (!(error instanceof RpcError)) {
    throw error;
  }
  return { messages: [], code: error.code, message: error.message, metadata: error.metadata };
}

/** A call of UserService, as a promise. */
export async function unary(target: Target, name: "createUser" | "getUser", init: MessageInitShape<DescMessage>): Promise<Outcome> {
  const method: DescMethod = UserService.method[name];
  const client = new GrpcWebClientBase({ format: target.format });
  const how = descriptor(method);
  try {
    const url = target.url + how.getName();
    const answer = await client.unaryCall(url, create(method.input, init), target.metadata, how);
    return { messages: [toJson(method.output, answer)], code: 0, message: "", metadata: {} };
  } catch (error) {
    return failure(error);
  }
}

/**
 * A watch of the database business's users, cancelled by the page after so many changes; started is called when it has begun. It ends
 * earlier with an error.
 */
export function watch(target: Target, table: string, changes: number, started: () => void): Promise<Outcome> {
  const method: DescMethod = DataService.method.watch;
  const client = new GrpcWebClientBase({ format: target.format });
  const how = descriptor(method);
  const url = target.url + how.getName();
  const stream = client.serverStreaming(url, create(method.input, { database: "business", table }), target.metadata, how);
  return new Promise((done, fail) => {
    const messages: JsonValue[] = [];
    stream.on("data", (message) => {
      const answer = toJson(method.output, message) as { columns?: JsonValue; changes?: JsonValue[] };
      if (answer.columns !== undefined) {
        started();
      }
      messages.push(...(answer.changes ?? []));
      if (messages.length >= changes) {
        stream.cancel();
        done({ messages, code: 0, message: "", metadata: {} });
      }
    });
    stream.on("error", (error) => done(failure(error)));
    stream.on("end", () => fail(new Error("the watch ended by itself")));
  });
}

Object.assign(globalThis, { grpcweb: { unary, watch } });
