import type { Reporter, TestCase, TestModule } from "vitest/node";

// Writes what `go test -json` would, so that these tests are counted with all others. A module is a package.

const tests = { passed: "pass", failed: "fail", skipped: "skip", pending: "fail" } as const;

function write(event: Record<string, unknown>): void {
  process.stdout.write(JSON.stringify(event) + "\n");
}

function packageOf(module: TestModule): string {
  return `web/${module.relativeModuleId}`;
}

export default class GoTestReporter implements Reporter {
  onTestModuleStart(module: TestModule): void {
    write({ Action: "start", Package: packageOf(module) });
  }

  onTestCaseResult(test: TestCase): void {
    const at = { Package: packageOf(test.module), Test: test.fullName.replaceAll(" ", "_") };
    const result = test.result();
    write({ Action: "run", ...at });
    for (const error of result.errors ?? []) {
      write({ Action: "output", ...at, Output: `${error.stack ?? error.message}\n` });
    }
    if (result.state === "skipped" && result.note !== undefined) {
      write({ Action: "output", ...at, Output: `${result.note}\n` });
    }
    write({ Action: tests[result.state], ...at, Elapsed: (test.diagnostic()?.duration ?? 0) / 1000 });
  }

  onTestModuleEnd(module: TestModule): void {
    const at = { Package: packageOf(module) };
    const errors = module.errors();
    for (const error of errors) {
      write({ Action: "output", ...at, Output: `${error.stack ?? error.message}\n` });
    }
    const ok = errors.length === 0 && module.state() !== "failed";
    write({ Action: ok ? "pass" : "fail", ...at, Elapsed: module.diagnostic().duration / 1000 });
  }

  onTestRunEnd(_modules: unknown, errors: readonly { stack?: string; message?: string }[]): void {
    for (const error of errors) {
      const at = { Package: "web" };
      write({ Action: "output", ...at, Output: `${error.stack ?? error.message}\n` });
      write({ Action: "fail", ...at, Elapsed: 0 });
    }
  }
}
