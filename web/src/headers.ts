/** The mesh's headers. */
export const header = {
  /** One bookmark, or several of different databases separated by commas. */
  bookmark: "nearside-bookmark",
  /** The region whose gateway answered. */
  region: "nearside-region",
  /** MEMORY, REPLICA or PRIMARY. */
  source: "nearside-source",
  /** How old the copy can be that was read. */
  stalenessMs: "nearside-staleness-ms",
  idempotencyKey: "idempotency-key",
  authorization: "authorization",
} as const;

/** Where an answer came from, as its headers say; a part that they do not say is absent. */
export interface Origin {
  region?: string;
  source?: "MEMORY" | "REPLICA" | "PRIMARY";
  stalenessMs?: number;
}

/** Reads where an answer came from, for the call option onHeader. */
export function originOf(headers: Headers): Origin {
  const origin: Origin = {};
  const region = headers.get(header.region);
  if (region) {
    origin.region = region;
  }
  const source = headers.get(header.source);
  if (source === "MEMORY" || source === "REPLICA" || source === "PRIMARY") {
    origin.source = source;
  }
  const staleness = headers.get(header.stalenessMs);
  if (staleness !== null && /^\d{1,10}$/.test(staleness)) {
    origin.stalenessMs = Number(staleness);
  }
  return origin;
}
