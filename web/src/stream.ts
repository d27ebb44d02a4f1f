/** What is told of a stream of messages. */
export interface Watcher {
  failed(error: unknown): void;
  ended?(): void;
}

/** Passes messages on and tells a watcher how they end. An error goes on to whoever reads, as failed leaves it. */
export async function* watched<T>(messages: AsyncIterable<T>, watcher: Watcher): AsyncGenerator<T> {
  const it = messages[Symbol.asyncIterator]();
  for (;;) {
    let result: IteratorResult<T>;
    try {
      result = await it.next();
    } catch (error) {
      watcher.failed(error);
      throw error;
    }
    if (result.done === true) {
      watcher.ended?.();
      return;
    }
    yield result.value;
  }
}
