import { StatusService, webMesh, type Login, type Mesh, type Session } from "../src/web.js";
import type { GetStatusResponse_Region } from "../src/gen/nearside/control/v1/status_service_pb.js";

export const database = "business";

/** The mesh as the page knows it: its regions, and a client of each. */
export class World {
  readonly session: Session;
  /** The region that the page came from. */
  own = "";
  regions: GetStatusResponse_Region[] = [];

  readonly #login: Login;
  readonly #meshes = new Map<string, Mesh>();
  readonly #home: Mesh;

  constructor(login: Login, session: Session) {
    this.#login = login;
    this.session = session;
    this.#home = webMesh({ session, credentials: login });
  }

  /** Asks how the regions are. */
  async refresh(signal: AbortSignal): Promise<void> {
    const status = this.#home.client(StatusService);
    if (this.own === "") {
      const here = await status.getStatus({ localOnly: true }, { signal });
      this.own = here.regions[0]?.name ?? "";
    }
    const { regions } = await status.getStatus({}, { signal, timeoutMs: 5000 });
    if (regions.length > 1 || this.regions.length === 0) {
      this.regions = regions;
      return;
    }
    // The gateway does not know the others at the moment: they are there all the same.
    this.regions = this.regions.map((r) => regions.find((n) => n.name === r.name) ?? r);
  }

  /** The client of a region. All of them are one session: what was done in one is seen in all. */
  mesh(region: string): Mesh {
    if (region === this.own) {
      return this.#home;
    }
    const url = this.regions.find((r) => r.name === region)?.url;
    if (url === undefined) {
      return this.#home;
    }
    let mesh = this.#meshes.get(region);
    if (mesh === undefined) {
      mesh = webMesh({ baseUrl: url, session: this.session, credentials: this.#login });
      this.#meshes.set(region, mesh);
    }
    return mesh;
  }
}
