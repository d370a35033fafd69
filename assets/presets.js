// The writer's own presets: settings under names, in this browser.
const ownPresets = (() => {
  const KEY = "jet-stories:presets";
  const MOST = 24; // of them, and characters of a name
  const read = () => {
    try {
      const found = JSON.parse(localStorage.getItem(KEY));
      return found && typeof found === "object" && !Array.isArray(found) ? found : {};
    } catch { return {}; }
  };
  const button = (className, textContent, title, onclick) =>
    Object.assign(document.createElement("button"), { type: "button", className, textContent, title, onclick });

  return {
    // How they come on the page; `use` is told the settings of the one that is pressed.
    show(use) {
      document.getElementById("jet-own-presets").replaceChildren(...Object.entries(read()).map(([name, settings]) => {
        const both = document.createElement("span");
        const remove = button("jet-quiet", "×", `Remove the preset ${name}`, () => {
          const all = read();
          delete all[name];
          localStorage.setItem(KEY, JSON.stringify(all));
          ownPresets.show(use);
        });
        remove.setAttribute("aria-label", remove.title);
        both.append(button("jet-opening", name, "One of your own presets", () => use(settings)), remove);
        return both;
      }));
    },
    // Returns what to say of it.
    keep(asked, settings) {
      const [name, all] = [asked.trim().slice(0, MOST), read()];
      if (!name) return "A preset needs a name.";
      if (!(name in all) && Object.keys(all).length >= MOST) return `There are ${MOST} presets of your own already: remove one first.`;
      try {
        localStorage.setItem(KEY, JSON.stringify({ ...all, [name]: settings }));
      } catch {
        return "Not kept: this browser’s storage is full or forbidden.";
      }
      return null;
    },
  };
})();
