// Other words for one of the model's: a card beside the word, that neither takes the focus nor a key. Typing closes it.
// It is offered for a word that was chosen with mouse or finger, and comes by button and key for the one at the caret.
const otherWords = (() => {
  const [TAP_MS, TAP_PX, MOST] = [450, 30, 60];
  let asked = null; // for which text and selection
  let entering = false; // the key goes into the card
  let tap = { at: -1e9, x: 0, y: 0 };
  let finger = false;

  const card = () => byId("jet-popover");
  const state = () => ({ text: box().value, start: box().selectionStart, end: box().selectionEnd });
  const still = (before) => {
    const now = state();
    return before.start === now.start && before.end === now.end && before.text === now.text;
  };
  const close = () => {
    const inside = card()?.contains(document.activeElement);
    asked = null;
    if (card()) sheet.point();
    card()?.remove();
    if (inside) box().focus({ preventScroll: true });
  };
  const placeCard = (start, end) => {
    const place = sheet.rectOf(start, end);
    const [height, top] = [visualViewport?.height ?? innerHeight, visualViewport?.offsetTop ?? 0];
    const { offsetWidth, offsetHeight } = card();
    const below = place.bottom + offsetHeight + 8 < top + height;
    card().style.left = `${Math.max(8, Math.min(place.left, innerWidth - offsetWidth - 8))}px`;
    const wanted = below ? place.bottom + 6 : place.top - offsetHeight - 6;
    card().style.top = `${Math.max(top + 8, Math.min(wanted, top + height - offsetHeight - 8))}px`;
  };
  const show = ({ start, end, html }) => {
    if (!asked || writing || !still(asked)) return;
    const [before, enter] = [asked, entering];
    close();
    asked = before;
    const made = Object.assign(document.createElement("div"), { id: "jet-popover", innerHTML: html });
    made.setAttribute("role", "dialog");
    made.setAttribute("aria-label", "Other words");
    made.dataset.start = start;
    made.dataset.end = end;
    made.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays where it is
    byId("jet-page").append(made);
    placeCard(start, end);
    sheet.point(start, end);
    if (enter) made.querySelector("button:enabled")?.focus({ preventScroll: true });
  };
  // Asks for the words at a place. `quiet` says nothing where there are none.
  const ask = ({ at = box().selectionStart, quiet = false, enter = false }) => {
    if (writing) return;
    close();
    asked = state();
    entering = enter;
    order({ do: "word", at, quiet }, ({ word }) => { if (word) requestAnimationFrame(() => show(word)); });
  };
  // For what is selected, if that is a word and no more.
  const offer = () => {
    const { text, start, end } = state();
    const chosen = text.slice(start, end);
    if (document.activeElement !== box() || chosen.length > MOST || /\S\s+\S/.test(chosen)) return;
    if (asked && still(asked)) return;
    if (start < end && !chosen.trim()) return;
    ask({ at: start + chosen.length - chosen.trimStart().length, quiet: true });
  };

  document.addEventListener("pointerdown", ({ pointerType }) => { finger = pointerType === "touch"; }, true);
  document.addEventListener("pointerup", ({ target, pointerType, button, clientX: x, clientY: y, timeStamp: at }) => {
    if (target !== box() || button !== 0) return;
    if (pointerType !== "touch") {
      setTimeout(() => { if (box().selectionStart < box().selectionEnd) offer(); });
      return;
    }
    const twice = at - tap.at < TAP_MS && Math.hypot(x - tap.x, y - tap.y) < TAP_PX;
    tap = twice ? { at: -1e9, x, y } : { at, x, y };
    if (twice) setTimeout(offer, 50); // the browser selects first
  });
  document.addEventListener("contextmenu", ({ target }) => { // a long press
    if (target === box() && finger) setTimeout(() => { if (box().selectionStart < box().selectionEnd) offer(); }, 50);
  });
  document.addEventListener("selectionchange", () => {
    if (card() && asked && !card().contains(document.activeElement) && !still(asked)) close();
  });
  document.addEventListener("scroll", ({ target }) => {
    if (card() && target !== card()) placeCard(Number(card().dataset.start), Number(card().dataset.end));
  }, true);
  // In the card arrows go from word to word and Enter takes one; whatever writes goes on in the story.
  document.addEventListener("keydown", (event) => {
    const { key, target, ctrlKey, metaKey } = event;
    if (!card()?.contains(target)) return;
    const choices = [...card().querySelectorAll("button:enabled")];
    const index = choices.indexOf(target);
    const to = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: -1 }[key];
    if (to !== undefined) {
      event.preventDefault();
      choices.at(to % choices.length)?.focus({ preventScroll: true });
    } else if ((key.length === 1 && !ctrlKey && !metaKey && !keys.isShortcut(event)) || ["Backspace", "Delete"].includes(key)) close();
  }, true);

  return { ask, close, isOpen: () => Boolean(card()) };
})();
