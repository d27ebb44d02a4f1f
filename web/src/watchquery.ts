import { create, equals, type MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { ConsistencySchema, type Answer } from "./gen/nearside/data/v1/consistency_pb.js";
import { WatchQueryRequestSchema, type DataService } from "./gen/nearside/data/v1/data_service_pb.js";
import { ResultSetSchema, type ResultSet } from "./gen/nearside/data/v1/statement_pb.js";
import { Stream, type WatchOptions } from "./watch.js";

/** What a watched query answers at one version. */
export interface QueryResult {
  result: ResultSet;
  /** Where the result came from. Its bookmark, as the request's consistency.bookmark, has another watch begin at least as fresh. */
  answer: Answer;
}

/**
 * Watches a query through a region's gateway: it gives what the statement answers, and again whenever it answers something else.
 * Results that follow each other closely come as one. The watch is opened again, at least as fresh as the last result, when the
 * connection or the region ends it, with pauses that grow up to 2 s; a result that did not change meanwhile is not given again. It
 * ends when the signal says so, and with an error when it cannot be begun and with what the statement fails with, as
 * SCHEMA_CHANGED. Leaving the loop ends it too.
 */
export async function* watchQuery(
  data: Pick<Client<typeof DataService>, "watchQuery">,
  request: MessageInitShape<typeof WatchQueryRequestSchema>,
  options: WatchOptions = {},
): AsyncGenerator<QueryResult, void, undefined> {
  const next = create(WatchQueryRequestSchema, request);
  let last: ResultSet | undefined;
  for (let attempt = 0; ; attempt++) {
    const stream = new Stream((o) => data.watchQuery(next, o), options);
    let first = true;
    try {
      for (let m = await stream.next(); m !== undefined; m = await stream.next()) {
        attempt = 0;
        if (first && last !== undefined) {
          options.onResumed?.();
        }
        first = false;
        const { answer, result } = m;
        if (answer === undefined || result === undefined) {
          continue; // there is no such answer
        }
        next.consistency ??= create(ConsistencySchema);
        next.consistency.bookmark = answer.bookmark;
        if (last !== undefined && equals(ResultSetSchema, last, result)) {
          continue;
        }
        last = result;
        yield { result, answer };
      }
    } finally {
      stream.close();
    }
    if (!(await stream.again(last !== undefined, attempt))) {
      return;
    }
  }
}
