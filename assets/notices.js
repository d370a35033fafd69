// Lines at the foot of the page that stay for as long as they are true, one for each topic: the connection, another
// tab, the storage. Each may have one thing that can be done about it.
const notices = (() => {
  const shown = new Map();
  const list = () => {
    const found = document.getElementById("jet-notices");
    if (found) return found;
    const made = Object.assign(document.createElement("div"), { id: "jet-notices" });
    document.getElementById("jet-page").append(made);
    return made;
  };
  const button = (textContent, onclick, label = textContent) => {
    const made = Object.assign(document.createElement("button"), { type: "button", className: "jet-quiet", textContent, onclick });
    made.setAttribute("aria-label", label);
    return made;
  };
  const clear = (topic) => {
    shown.get(topic)?.remove();
    shown.delete(topic);
  };
  return {
    // `doing` is what can be done, as [what stands on the button, what it does]; a line that `goes` can be put away.
    show(topic, text, { doing = null, goes = false } = {}) {
      if (shown.get(topic)?.dataset.said === text) return;
      clear(topic);
      const line = document.createElement("p");
      line.dataset.said = text;
      line.setAttribute("role", "status");
      line.append(Object.assign(document.createElement("span"), { textContent: text }));
      if (doing) line.append(button(...doing));
      if (goes) line.append(button("×", () => clear(topic), "Put this line away"));
      list().append(line);
      shown.set(topic, line);
    },
    clear,
  };
})();
