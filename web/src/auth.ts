import { Code, createClient, type CallOptions, type Client, type Interceptor, type Transport } from "@connectrpc/connect";
import { failed, NearsideError } from "./errors.js";
import { AuthService, type Tokens } from "./gen/nearside/auth/v1/auth_service_pb.js";
import { header } from "./headers.js";
import { idempotent } from "./retry.js";
import { watched } from "./stream.js";

/** Where calls get the credential that they show. */
export interface TokenSource {
  /** The token to show; undefined for none. */
  token(): Promise<string | undefined>;
  /** Is told that a token was refused as expired or not valid. It says whether there is another one to try. */
  refused(token: string): Promise<boolean>;
}

/** Shows an access token or an API key that does not change. Spaces around it, as files have them at their ends, are left out. */
export function fixedToken(token: string): TokenSource {
  const shown = token.trim();
  if (/[^\x21-\x7e]/.test(shown)) {
    throw new TypeError("a token has no spaces, and no characters beyond ASCII"); // or each call would fail like a connection
  }
  return { token: () => Promise.resolve(shown), refused: () => Promise.resolve(false) };
}

/** Returns an interceptor whose calls show a source's token. A call whose token was refused is made once more with another one. */
export function bearer(source: TokenSource): Interceptor {
  return (next) => async (req) => {
    if (req.header.has(header.authorization)) {
      return next(req);
    }
    const token = await source.token();
    if (token === undefined) {
      return next(req);
    }
    req.header.set(header.authorization, `Bearer ${token}`);
    if (!req.stream) {
      try {
        return await next(req);
      } catch (error) {
        // Who is calling is found out before anything is done, so this one has done nothing.
        if (!refusal(error) || !(await source.refused(token))) {
          throw error;
        }
      }
      const again = { ...req, header: new Headers(req.header) };
      again.header.set(header.authorization, `Bearer ${(await source.token()) ?? token}`);
      return next(again);
    }
    try {
      const res = await next(req);
      if (!res.stream) {
        return res;
      }
      const message = watched(res.message, {
        failed(error) {
          if (refusal(error)) {
            source.refused(token).catch(ignored); // whoever opens the stream again finds the new one, or why there is none
          }
        },
      });
      return { ...res, message };
    } catch (error) {
      if (refusal(error)) {
        source.refused(token).catch(ignored);
      }
      throw error;
    }
  };
}

function ignored(): void {
  // The next call meets it again.
}

function refusal(error: unknown): boolean {
  return failed(error).is("TOKEN_EXPIRED", "TOKEN_INVALID");
}

/** What a log-in goes on with. */
export interface LoginOptions {
  /** Is called when the tokens change: with those that are there now, or with undefined when the log-in has ended. */
  onChange?: (tokens: Tokens | undefined) => void;
  /** A clock in milliseconds that does not jump. Default: performance.now. */
  clock?: () => number;
}

// The part of its life after which an access token is replaced.
const renewAfter = 0.8;

/**
 * Logs in with a password or an API key, and keeps an access token that is good: it is replaced before it ends, once for all calls
 * that need it. As long as nobody can replace it, calls go on with the one that is there: a region that is cut off takes it for
 * a while after its end.
 *
 * A refresh token is good for one use, so keep it in one place: two log-ins that go on from the same one end each other. One log-in may show it
 * again where the answer was lost: it does so under the same idempotency key.
 */
export class Login implements TokenSource {
  readonly #auth: Client<typeof AuthService>;
  readonly #onChange: (tokens: Tokens | undefined) => void;
  readonly #clock: () => number;
  #tokens: Tokens | undefined;
  #apiKey: string | undefined;
  #renewAt = 0;
  #renewing: Promise<void> | undefined;
  // Under which key a refresh token is shown. It is the same each time: an answer that was lost ends no session.
  #shown: { refreshToken: string; options: CallOptions } | undefined;

  /** The transport is one without credentials. */
  constructor(transport: Transport, options: LoginOptions = {}) {
    this.#auth = createClient(AuthService, transport);
    this.#onChange = options.onChange ?? (() => undefined);
    this.#clock = options.clock ?? (() => performance.now());
  }

  /** The tokens; undefined before a log-in and after its end. */
  get tokens(): Tokens | undefined {
    return this.#tokens;
  }

  /** Logs in as a user. */
  async password(name: string, password: string): Promise<void> {
    await this.#begin({ case: "password", value: { name, password } });
  }

  /** Logs in as a service account. The key stays in memory: it is what the log-in goes on with. */
  async apiKey(key: string): Promise<void> {
    await this.#begin({ case: "apiKey", value: key });
    this.#apiKey = key;
  }

  /** Goes on with the refresh token of an earlier log-in. */
  async resume(refreshToken: string): Promise<void> {
    await this.#once(async () => {
      const { tokens } = await this.#refresh(refreshToken);
      this.#apiKey = undefined;
      this.#set(tokens);
    });
  }

  /** Ends the session, for all who have its tokens. Here it has ended even if the call fails. */
  async end(options?: Pick<CallOptions, "signal" | "timeoutMs">): Promise<void> {
    const tokens = this.#tokens;
    this.#apiKey = undefined;
    this.#set(undefined);
    if (tokens === undefined) {
      return;
    }
    const target =
      tokens.sessionId === ""
        ? { case: "accessToken" as const, value: tokens.accessToken }
        : { case: "sessionId" as const, value: tokens.sessionId };
    const headers = { [header.authorization]: `Bearer ${tokens.accessToken}` };
    await wrapped(this.#auth.revokeToken({ target }, { ...options, headers }));
  }

  async token(): Promise<string | undefined> {
    if (this.#tokens !== undefined && (this.#renewing !== undefined || this.#clock() >= this.#renewAt)) {
      try {
        await this.#renew();
      } catch (error) {
        if (this.#tokens === undefined) {
          throw error; // the log-in has ended
        }
      }
    }
    return this.#tokens?.accessToken;
  }

  async refused(token: string): Promise<boolean> {
    if (this.#tokens === undefined) {
      return false;
    }
    if (this.#tokens.accessToken !== token) {
      return true;
    }
    await this.#renew();
    return this.#tokens !== undefined;
  }

  async #begin(credential: Parameters<Client<typeof AuthService>["authenticate"]>[0]["credential"] & {}): Promise<void> {
    await this.#once(async () => {
      const { tokens } = await this.#auth.authenticate({ credential });
      this.#apiKey = undefined;
      this.#set(tokens);
    });
  }

  #renew(): Promise<void> {
    return (this.#renewing ??= this.#replace().finally(() => {
      this.#renewing = undefined;
    }));
  }

  async #replace(): Promise<void> {
    const before = this.#tokens;
    const apiKey = this.#apiKey;
    try {
      const { tokens } =
        apiKey === undefined
          ? await this.#refresh(before?.refreshToken ?? "")
          : await this.#auth.authenticate({ credential: { case: "apiKey", value: apiKey } });
      if (this.#tokens === before) {
        this.#set(tokens);
      }
    } catch (cause) {
      const error = failed(cause);
      if (this.#tokens === before && error.fromServer && final.has(error.code)) {
        this.#apiKey = undefined;
        this.#set(undefined);
      }
      throw error;
    }
  }

  #refresh(refreshToken: string): ReturnType<Client<typeof AuthService>["refreshToken"]> {
    if (this.#shown?.refreshToken !== refreshToken) {
      this.#shown = { refreshToken, options: idempotent() };
    }
    return this.#auth.refreshToken({ refreshToken }, this.#shown.options);
  }

  async #once(f: () => Promise<void>): Promise<void> {
    await this.#renewing?.catch(ignored);
    await wrapped(f());
  }

  #set(tokens: Tokens | undefined): void {
    this.#tokens = tokens;
    if (tokens !== undefined) {
      this.#renewAt = this.#clock() + lifetimeMs(tokens.accessToken) * renewAfter;
    }
    this.#onChange(tokens);
  }
}

// After these there is nothing to go on with.
const final = new Set([Code.Unauthenticated, Code.PermissionDenied, Code.InvalidArgument]);

async function wrapped<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw error instanceof NearsideError ? error : failed(error);
  }
}

/**
 * How long an access token lives, by its own two times: the clock here may be another one than that of the mesh. What cannot be
 * read lives for no time, and is replaced with the next call.
 */
function lifetimeMs(token: string): number {
  try {
    const text = atob((token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(text) as { iat?: unknown; exp?: unknown };
    return typeof claims.iat === "number" && typeof claims.exp === "number" ? (claims.exp - claims.iat) * 1000 : 0;
  } catch {
    return 0;
  }
}
