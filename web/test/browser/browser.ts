import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type BrowserContext, type ConsoleMessage, type Page } from "playwright-core";

/** The browser that the machine has. */
export const executablePath = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
export const isThere = existsSync(executablePath);

const pictures = join(import.meta.dirname, "../../../.tmp/demo-pictures");

/** A browser with a profile of its own. It notes what a page must not do: complain, and ask elsewhere. */
export class Browser {
  /** Errors and warnings of the console, and errors that nobody caught. */
  readonly complaints: string[] = [];
  /** Requests to others than the mesh. */
  readonly elsewhere: string[] = [];
  readonly #context: BrowserContext;
  readonly #dir: string;

  private constructor(context: BrowserContext, dir: string) {
    this.#context = context;
    this.#dir = dir;
  }

  /** Starts the browser for a mesh's pages. expected knows the complaints that a test brings about. */
  static async start(urls: string[], expected: { test(text: string): boolean }): Promise<Browser> {
    const dir = mkdtempSync(join(tmpdir(), "nearside-chromium-"));
    const context = await chromium.launchPersistentContext(dir, {
      executablePath,
      headless: true,
      viewport: { width: 1280, height: 900 },
      locale: "en-GB",
      args: [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
      ],
    });
    const browser = new Browser(context, dir);
    const complain = (text: string) => {
      if (!expected.test(text)) {
        browser.complaints.push(text);
      }
    };
    context.on("console", (message: ConsoleMessage) => {
      if (message.type() === "error" || message.type() === "warning") {
        complain(`${message.type()}: ${message.text()} ${message.location().url}`);
      }
    });
    context.on("weberror", (error) => complain(`uncaught: ${error.error().message}`));
    context.on("request", (request) => {
      if (!urls.some((url) => request.url().startsWith(`${url}/`))) {
        browser.elsewhere.push(request.url());
      }
    });
    return browser;
  }

  open(): Promise<Page> {
    return this.#context.newPage();
  }

  /** Keeps a picture of a page for people to look at. */
  async picture(page: Page, name: string): Promise<void> {
    mkdirSync(pictures, { recursive: true });
    await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
  }

  async close(): Promise<void> {
    await this.#context.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
