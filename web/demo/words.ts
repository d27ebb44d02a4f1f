import { Code, errorOf } from "../src/web.js";

/** An error as people read it. */
export function words(error: unknown): string {
  const e = errorOf(error);
  if (e === undefined) {
    return String(error);
  }
  switch (e.reason) {
    case "PERMISSION_DENIED":
      return "This account may not do this. Its roles do not allow it.";
    case "PRIMARY_UNAVAILABLE":
      return "The primary does not answer, so nothing was written. Reading goes on.";
    case "PRECONDITION_FAILED":
      return "Somebody else has changed this meanwhile. Look at it again, then try once more.";
    case "BOOKMARK_LOST":
      return "Another primary took over without what this page had seen. Look at it again, then try once more.";
    case "ALREADY_EXISTS":
      return "Another user has this email.";
    case "UNAUTHENTICATED":
      return "The name, the password or the key is wrong.";
    case "ACCOUNT_LOCKED":
    case "RATE_LIMITED":
      return `Too many tries. Wait ${Math.max(1, Math.ceil(e.retryAfterMs / 1000))} s.`;
    case "RULE_VIOLATED":
      return rules[e.info["rule"] ?? ""] ?? `A rule forbids it: ${e.rawMessage}`;
    case "FIELD_INVALID":
      return e.fields.map((f) => `${f.field}: ${f.rule}`).join("; ") || e.rawMessage;
    default:
      if (!e.fromServer && e.code !== Code.DeadlineExceeded) {
        return "The region does not answer.";
      }
      return e.rawMessage;
  }
}

const rules: Record<string, string> = {
  order_total_limit: "An order may not be worth more than 10,000.00.",
  order_article_once: "An article may be in an order once.",
  user_has_orders: "This user has orders, and so cannot be deleted.",
};
