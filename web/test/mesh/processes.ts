import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const program = resolve(process.env["NEARSIDE_BIN"] ?? join(import.meta.dirname, "../../../bin/nearside"));

const migrations = join(import.meta.dirname, "../../../services/business/migrations");

/** This process's without what would change how the program behaves. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NEARSIDE_")));
}

/** A process of the program. */
export class Nearside {
  readonly #process: ChildProcess;
  readonly #ended: Promise<void>;
  #log = "";

  constructor(args: string[], dir: string) {
    if (!existsSync(program)) {
      throw new Error(`${program} is missing: run make build`);
    }
    this.#process = spawn(program, args, { cwd: dir, env: environment(), stdio: ["ignore", "pipe", "pipe"] });
    this.#ended = new Promise((ended) => this.#process.on("close", () => ended()));
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on("data", (data: Buffer) => {
        this.#log = (this.#log + data.toString()).slice(-100_000);
      });
    }
  }

  /** Waits until a listener says that it is ready. */
  async ready(url: string): Promise<void> {
    const until = Date.now() + 60_000;
    for (;;) {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null) {
        throw new Error(`nearside ended before it was ready:\n${this.#log}`);
      }
      const ok = await fetch(`${url}/readyz`).then(
        (res) => res.ok,
        () => false,
      );
      if (ok) {
        return;
      }
      if (Date.now() > until) {
        throw new Error(`${url} was not ready in time:\n${this.#log}`);
      }
      await new Promise((wait) => setTimeout(wait, 50));
    }
  }

  /** Ends the process, as an operator would or as a crash does. */
  async end(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill(signal);
    }
    const late = setTimeout(() => this.#process.kill("SIGKILL"), 20_000);
    await this.#ended;
    clearTimeout(late);
  }
}

/** What a mesh's processes have in common. */
export interface Mesh {
  dir: string;
  /** Of the gateways, in the order of the regions. */
  urls: string[];
  /** The admin's API key. */
  token: string;
  end(): Promise<void>;
}

const regions = ["us-east-1", "eu-west-1"];

/** Starts a mesh of two regions in one process; flags are others than the usual ones. */
export async function startUp(...flags: string[]): Promise<Mesh> {
  const dir = mkdtempSync(join(tmpdir(), "nearside-web-"));
  const port = await freePort([0, 1, 1000, 1001, -1010, -10]);
  const up = new Nearside(["up", "--dir", dir, "--port", String(port), "--regions", regions.join(), ...flags], dir);
  const urls = regions.map((_, i) => `http://127.0.0.1:${port + i}`);
  const end = async () => {
    await up.end();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    for (const url of urls) {
      await up.ready(url);
    }
  } catch (error) {
    await end();
    throw error;
  }
  return { dir, urls, token: flags.includes("--insecure-no-auth") ? "" : adminToken(dir), end };
}

/** A mesh whose roles are processes of their own. */
export interface Roles extends Mesh {
  /** Kills the primary, as a crash does. */
  killPrimary(): Promise<void>;
  startPrimary(): Promise<void>;
  /** Kills a region's sidecar. */
  killRegion(i: number): Promise<void>;
  startRegion(i: number): Promise<void>;
}

/** Starts a primary and two regions, with users and orders. */
export async function startRoles(): Promise<Roles> {
  const dir = mkdtempSync(join(tmpdir(), "nearside-web-"));
  const port = await freePort([0, 1, 2, 1000, 1001, 1002]);
  const primaryURL = `http://127.0.0.1:${port + 2}`;
  const urls = regions.map((_, i) => `http://127.0.0.1:${port + i}`);
  const args = ["primary", "--dir", join(dir, "primary"), "--listen", `127.0.0.1:${port + 2}`, "--region", "us-east-1"];
  const sidecarArgs = (i: number) => {
    const region = regions[i] ?? "";
    return ["sidecar", "--business", "--region", region, "--primary", primaryURL, "--listen", `127.0.0.1:${port + i}`, "--dir", join(dir, region)];
  };
  let primary: Nearside | undefined;
  const sidecars: Nearside[] = [];
  const roles: Roles = {
    dir,
    urls,
    token: "",
    async killPrimary() {
      await primary?.end("SIGKILL");
    },
    async startPrimary() {
      primary = new Nearside(args, dir);
      await primary.ready(primaryURL);
    },
    async killRegion(i) {
      await sidecars[i]?.end("SIGKILL");
    },
    async startRegion(i) {
      sidecars[i] = new Nearside(sidecarArgs(i), dir);
      await sidecars[i]?.ready(urls[i] ?? "");
    },
    async end() {
      await Promise.all([...sidecars.map((s) => s.end()), primary?.end()]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
  try {
    await roles.startPrimary();
    roles.token = adminToken(join(dir, "primary"));
    execFileSync(program, ["migrate", "--db", "business", "--create", "--url", primaryURL, "--token", roles.token, migrations], { cwd: dir, env: environment() });
    await Promise.all(regions.map((_, i) => roles.startRegion(i)));
  } catch (error) {
    await roles.end();
    throw error;
  }
  return roles;
}

function adminToken(dir: string): string {
  return (JSON.parse(readFileSync(join(dir, "admin.json"), "utf8")) as { token: string }).token;
}

/** Finds a port that is free, as are those with the given distances from it. */
async function freePort(offsets: number[]): Promise<number> {
  for (let tries = 0; tries < 1000; tries++) {
    const port = 12_000 + Math.floor(Math.random() * 18_000);
    const free = await Promise.all(offsets.map((o) => isFree(port + o)));
    if (free.every(Boolean)) {
      return port;
    }
  }
  throw new Error("found no free ports for a mesh");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A connection to a gateway that a test can cut. */
export class Cable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #closed = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async to(url: string): Promise<Cable> {
    const { hostname, port } = new URL(url);
    const server = createServer((near) => {
      if (cable.#closed) {
        near.destroy();
        return;
      }
      const far = connect(Number(port), hostname);
      for (const [from, to] of [[near, far], [far, near]] as const) {
        cable.#sockets.add(from);
        from.on("error", () => to.destroy());
        from.on("close", () => {
          cable.#sockets.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    });
    const cable = new Cable(server);
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    return cable;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Breaks all connections, and lets none through until mend. */
  cut(): void {
    this.#closed = true;
    for (const socket of this.#sockets) {
      socket.resetAndDestroy();
    }
  }

  mend(): void {
    this.#closed = false;
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((closed) => this.#server.close(closed));
  }
}
