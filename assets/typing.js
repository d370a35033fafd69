// Where one step of typing ends and the next begins, so that Undo takes back a sentence and not an hour: at the end of
// a sentence or line, before and after a paste, where typing gives way to deleting, where the caret went elsewhere.
const typing = (() => {
  const [LONG_RUN, LONGEST_RUN] = [120, 300]; // characters without such an end: then at a blank, then anywhere
  const ENDS = /(?:[.!?…]["'”’»)\]]*[^\S\n]|\n|[。！？][」』”）]?)$/u;
  let origin = null; // the text that the steps go out from
  let last = null; // the text after the latest step
  let steps = [];
  let kind = "";
  let place = -1; // where typing would go on
  let first = Infinity; // where the first change since the latest step was made
  let run = 0; // characters since the latest step

  const [MOST_PLACES, places] = [400, []]; // where the latest steps were made: a text alone does not always say
  const remember = (text) => {
    if (last === null || text === last) return null;
    const edit = sheet.edit(last, text);
    places.push({ from: Math.min(first, edit.from), removed: edit.to - edit.from, added: edit.text.length });
    if (places.length > MOST_PLACES) places.shift();
    first = Infinity;
    return edit;
  };
  const cut = (text) => {
    const edit = remember(text);
    if (edit) steps.push(edit);
    last = text;
    run = 0;
  };
  const kindOf = (inputType = "") => {
    if (/^insert(Text|CompositionText|LineBreak|Paragraph)$/.test(inputType)) return "insert";
    return inputType.startsWith("delete") && !/Cut|Drag/.test(inputType) ? "delete" : "other";
  };

  return {
    // The desk has this text now.
    restart(text) {
      origin = last = text;
      steps = [];
      run = 0;
    },
    // The writer has made `now` of `before`.
    note(inputType, before, now, cursor) {
      if (origin === null) this.restart(before);
      const change = sheet.edit(before, now, cursor);
      const next = kindOf(inputType);
      const goesOn = next === "delete" ? [change.from, change.to] : [change.from];
      if (next !== kind || next === "other" || !goesOn.includes(place)) cut(before);
      kind = next;
      first = Math.min(first, change.from);
      place = cursor;
      run += change.text.length + change.to - change.from;
      const ended = next === "other" || run >= LONGEST_RUN
        || (next === "insert" && ENDS.test(now.slice(Math.max(0, place - 8), place)))
        || (run >= LONG_RUN && /\s$/.test(change.text));
      if (ended && !caret.isComposing()) cut(now);
    },
    // Where Undo or Redo has changed a text, if it was typed there: " b" that is gone from "a b b" may be either.
    placeOf(before, now, { from, to, text }) {
      const [removed, added] = [to - from, text.length];
      if (removed && added) return from;
      const [whole, size] = removed ? [before, removed] : [now, added];
      let least = from;
      while (least > 0 && from - least < size && whole[least - 1] === whole[least - 1 + size]) least -= 1;
      const back = (step) => step.from >= least && step.from <= from
        && ((step.added === removed && step.removed === added) || (step.added === added && step.removed === removed));
      return places.findLast(back)?.from ?? from;
    },
    // The steps that lead from a text close to one that is to be sent, from which the next ones go out.
    take(story) {
      const found = { origin, steps };
      remember(story ?? last);
      if (story !== null) this.restart(story);
      return found;
    },
  };
})();
