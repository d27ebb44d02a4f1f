import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, DataService, errorOf, mustReadAgain, watch, type Mesh, type WatchEvent } from "../src/web.js";
import type { WatchRequestSchema } from "../src/gen/nearside/data/v1/data_service_pb.js";
import { pause } from "../src/pause.js";
import { words } from "./words.js";

export type State = "live" | "waiting" | "refused";

/** What is told of a table. */
export interface Follower {
  /** Reads the rows, at least as fresh as a bookmark. */
  read(bookmark: string): Promise<void>;
  /** Is told of a commit. */
  changed(event: WatchEvent): void | Promise<void>;
  /** How it goes. */
  state(state: State, text: string): void;
}

/** Follows a table in a region until the signal ends it: reads the rows, and is told of each change from there on. */
export async function follow(
  mesh: Mesh,
  request: MessageInitShape<typeof WatchRequestSchema>,
  follower: Follower,
  signal: AbortSignal,
): Promise<void> {
  const data = mesh.client(DataService);
  for (let attempt = 0; !signal.aborted; attempt++) {
    try {
      let begun = false;
      for await (const event of watch(data, request, {
        signal,
        onInterrupted: () => follower.state("waiting", "connecting again"),
        onResumed: () => follower.state("live", "live"),
      })) {
        attempt = 0;
        if (!begun) {
          // Rows first: what happens meanwhile waits in the stream, and each change is a row's whole new state.
          await follower.read(event.bookmark);
          begun = true;
          follower.state("live", "live");
        } else if (event.changes.length > 0) {
          await follower.changed(event);
        }
      }
    } catch (error) {
      if (signal.aborted) {
        return;
      }
      if (mustReadAgain(error)) {
        mesh.session.clear();
        continue;
      }
      const code = errorOf(error)?.code;
      if (code === undefined) {
        console.error(error); // a mistake of this page's
      }
      if (code === Code.PermissionDenied || code === Code.Unauthenticated) {
        follower.state("refused", words(error));
        return;
      }
      follower.state("waiting", words(error));
    }
    await pause(Math.min(4000, 250 * 2 ** attempt), signal);
  }
}
