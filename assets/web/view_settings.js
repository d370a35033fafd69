// How the sheet looks to this writer: size of its text, width of its lines, light or dark, and nothing but the text.

import { openStorage } from "./browser_storage.js";
import { all, byId, field, make, targetOf } from "./dom.js";
import { editor } from "./editor.js";
import { paintLater } from "./highlights.js";
import { mayBeNarrow } from "./paragraphs.js";

const KEY = "view";
const CHOICES = /** @type {const} */ (["size", "width", "paragraphs", "theme"]);
const DEFAULTS = { size: "medium", width: "medium", paragraphs: "narrow", theme: "system" };
const storage = openStorage("localStorage");
/** @type {Record<string, string>} */
let view = {};
let canNarrow = false; // this browser makes blank lines as high as the font of a blank says
let suits = true; // the text
let trying = Promise.resolve();

const isDarkOutside = () => matchMedia("(prefers-color-scheme: dark)").matches;

function apply() {
  const page = byId("jet-page");
  page.dataset.size = view.size ?? "medium";
  page.dataset.width = view.width ?? "medium";
  page.dataset.paragraphs = canNarrow && suits && view.paragraphs !== "wide" ? "narrow" : "wide";
  const { theme } = view;
  if (theme)
    document.body.classList.toggle("dark", theme === "dark" || (theme === "system" && isDarkOutside()));
  for (const name of CHOICES) {
    const choice = field(`jet-view-${name}`);
    choice.value = view[name] ?? DEFAULTS[name];
  }
  paintLater(); // marks lie where the words are now
}

/** Notes what is to be on the sheet. @param {string} text */
export function noteText(text) {
  const before = suits;
  suits = mayBeNarrow(text);
  if (suits !== before) apply();
}

/** Is done once the sheet is laid out as it stays. */
export const laidOut = () => trying;

/** Finds out whether blank lines can be narrow here, once the face is there. */
async function tryNarrow() {
  const faces = await document.fonts.load('1em "Jet Lines"', " a").catch(() => []);
  if (!faces.length) return; // they did not come
  const probe = make("div", { className: "jet-probe", innerHTML: "a<br><br>" });
  byId("jet-page").append(probe);
  const whole = probe.offsetHeight;
  probe.innerHTML = "a";
  canNarrow = whole < 1.6 * probe.offsetHeight;
  probe.remove();
  apply();
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
  trying = tryNarrow();
  document.addEventListener("beforeinput", ({ target, data }) => {
    // A long text that is pasted would be laid out twice otherwise.
    if (target === editor() && data && !mayBeNarrow(data)) noteText(data);
  });
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
