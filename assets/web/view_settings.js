// How the sheet looks to this writer: size of its text, width of its lines, light or dark, and nothing but the text.

import { openStorage } from "./browser_storage.js";
import { all, byId, field, targetOf } from "./dom.js";
import { editor } from "./editor.js";

const KEY = "view";
const CHOICES = /** @type {const} */ (["size", "width", "theme"]);
const storage = openStorage("localStorage");
/** @type {Record<string, string>} */
let view = {};

const isDarkOutside = () => matchMedia("(prefers-color-scheme: dark)").matches;

function apply() {
  const page = byId("jet-page");
  page.dataset.size = view.size ?? "medium";
  page.dataset.width = view.width ?? "medium";
  const { theme } = view;
  if (theme)
    document.body.classList.toggle("dark", theme === "dark" || (theme === "system" && isDarkOutside()));
  for (const name of CHOICES) {
    const choice = field(`jet-view-${name}`);
    choice.value = view[name] ?? (name === "theme" ? "system" : "medium");
  }
}

/** Shows nothing but the sheet and its bar, or everything again. @param {boolean} on */
export function setFocusMode(on) {
  byId("jet-page").classList.toggle("jet-focus", on);
  byId("jet-leave-focus").hidden = !on;
  for (const tab of all(".jet-tabs [aria-selected=true]")) if (on) tab.click();
  editor().focus({ preventScroll: true });
}

/** Starts watching the choices. */
export function install() {
  const kept = storage.readObject(KEY);
  view = Object.fromEntries(
    CHOICES.flatMap((name) => (typeof kept[name] === "string" ? [[name, kept[name]]] : [])),
  );
  apply();
  document.addEventListener("change", (event) => {
    const name = CHOICES.find((one) => targetOf(event).id === `jet-view-${one}`);
    if (!name) return;
    view[name] = targetOf(event).value;
    storage.tryWrite(KEY, JSON.stringify(view)); // if not, it lasts as long as this tab
    apply();
  });
  document.addEventListener("click", (event) => {
    const id = targetOf(event).closest?.("button")?.id;
    if (id === "jet-enter-focus") setFocusMode(true);
    else if (id === "jet-leave-focus") setFocusMode(false);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  const fit = () =>
    byId("jet-page").style.setProperty(
      "--jet-height",
      `${Math.round(visualViewport?.height ?? innerHeight)}px`,
    );
  visualViewport?.addEventListener("resize", fit); // a keyboard that comes up
}
