import type { Login } from "../src/web.js";
import { brand, field, h, pages } from "./dom.js";
import { words } from "./words.js";

/** The form with which one logs in. */
export function loginView(login: Login, done: () => void, reason = ""): HTMLElement {
  const name = field("Name", { name: "name", autocomplete: "username", required: true, maxlength: 128, autocapitalize: "none", spellcheck: "false" });
  const password = field("Password", { name: "password", type: "password", autocomplete: "current-password", required: true, maxlength: 1024 });
  const key = field("API key", { name: "key", type: "password", autocomplete: "off", required: true, maxlength: 256 });
  const notice = h("p", { class: "notice", role: "alert" }, reason);
  notice.hidden = reason === "";
  const submit = async (form: HTMLFormElement, f: () => Promise<void>) => {
    const buttons = form.querySelectorAll("button");
    notice.hidden = true;
    buttons.forEach((b) => (b.disabled = true));
    try {
      await f();
      form.reset();
      done();
    } catch (error) {
      notice.textContent = words(error);
      notice.hidden = false;
    } finally {
      buttons.forEach((b) => (b.disabled = false));
    }
  };
  const byPassword = h(
    "form",
    { "aria-label": "Log in with a password" },
    name.root,
    password.root,
    h("button", { type: "submit", class: "main" }, "Log in"),
  );
  byPassword.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit(byPassword, () => login.password(name.input.value, password.input.value));
  });
  const byKey = h(
    "form",
    { "aria-label": "Log in with an API key" },
    key.root,
    h("button", { type: "submit" }, "Use this key"),
  );
  byKey.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit(byKey, () => login.apiKey(key.input.value.trim()));
  });
  const command = (text: string) => h("code", {}, text);
  return h(
    "main",
    { class: "login" },
    brand(),
    h("p", { class: "hint" }, "Users and orders, live in two regions of this mesh."),
    notice,
    byPassword,
    h("details", {}, h("summary", {}, "With an API key"), byKey),
    h(
      "details",
      {},
      h("summary", {}, "How to get an account"),
      h("p", {}, "In the folder in which the mesh was started. Each asks for a password:"),
      h(
        "pre",
        {},
        command("nearside user create ann --role writer:business\nnearside user create bob --role reader:business"),
      ),
      h("p", {}, "Or show the admin's key, which may do everything:"),
      h("pre", {}, command("nearside token")),
    ),
    pages(),
  );
}
