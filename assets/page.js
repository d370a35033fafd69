// The page's own hand: orders to the desk one after the other, locking while the model writes, keys, drawers.
const byId = (id) => document.getElementById(id);
const LOOKING = new Set(["look", "keep", "export", "history", "word", "compare", "preset", "own-preset", "reuse", "resume", "restore"]); // these change nothing
const REWRITING = new Set(["undo", "redo", "opening", "fork", "show", "prune", "new", "import", "restore"]); // these bring a text
const OPENING = new Set(["new", "import", "restore"]); // these bring another story
const BY_ITSELF = new Set(["look", "keep", "resume", "restore", "guide", "title"]); // these nobody waits for

let queue = []; // orders that wait, each with what to do after it
let ahead = null; // where text and caret were when an order was given last that brings a text
let current = null; // the one under way
let waiting = []; // who waits for all of them
let next = null; // what is to be written when Continue is pressed
let wish = null; // what is being written
let settings = {}; // and with which
let presetName = ""; // what the settings are to be called
let number = 0; // of the order sent last
let writes = 0; // the number of the one that has something written: a way may be picked before that ends
let known = false; // the desk has this story
let writing = false;
let steps = { undo: false, redo: false, retry: false };
let syncTimer = 0;
let keepTimer = 0;
let synced = null; // the text that the desk has, where that is known
let first = null; // asks for the story that this tab had, until it is there
let stale = false; // the browser's copy is older than the story
let told = {}; // fields that the desk has as they stand here, and the browser has yet to keep
const unsaid = new Set(); // what the desk is still to hear: "guide", "title"

// --- orders ------------------------------------------------------------------------------------------------

const drawerNow = () => document.querySelector(".jet-tabs [aria-selected=true]")?.dataset.drawer ?? "";
const sealed = (order) => JSON.stringify({
  ...order, n: (number += 1), tint: byId("jet-tint").value, drawer: drawerNow(), known,
});
const send = () => {
  const at = (wanted) => queue.findIndex((waits) => waits.order.do === wanted);
  // What was ordered before the writing goes before it, and while it lasts only what the desk does then.
  const index = writing && writes ? MEANWHILE.map(at).find((place) => place >= 0) : firstOf(queue);
  if (current || !queue[index]) return;
  [current] = queue.splice(index, 1);
  clearTimeout(syncTimer); // the text goes with every order
  syncTimer = 0;
  if (OPENING.has(current.order.do)) library.hold(true);
  byId("jet-act").click();
};
// What only looks may wait for an order that brings a text: what has been typed behind that is not its business.
const brings = ({ order }) => REWRITING.has(order.do);
const firstOf = (waits) => {
  const first = waits.findIndex(brings);
  return waits.slice(0, Math.max(0, first)).every(({ order }) => LOOKING.has(order.do)) ? Math.max(0, first) : 0;
};
const order = (plain, after) => {
  const given = { order: plain, after };
  if (brings(given)) {
    const [text, at] = [box().value, box().selectionEnd];
    // It is for the text as it is now. What that was typed over is still to come.
    if ((current && brings(current)) || queue.some(brings)) given.typed = { edit: sheet.edit(ahead.text, text, at), was: ahead.at };
    else Object.assign(given, { story: text, at, steps: typing.take(text) });
    ahead = { text, at };
  }
  queue.push(given);
  send();
};
// The text on its way to the desk, of a long one only what the desk does not have.
const unsent = (story, { origin, steps } = typing.take(story)) => {
  if (story === null || (known && story === synced)) return {};
  const typed = known && synced !== null && origin === synced && steps.length ? { typed: steps } : {};
  return { ...typed, ...(known && synced?.length > LONG ? { edit: sheet.edit(synced, story) } : { story }) };
};
const settled = () => new Promise((resolve) => {
  if (!current) resolve(); else waiting.push(resolve);
});

const sync = () => { // Undo goes back to where the writer paused
  clearTimeout(syncTimer);
  syncTimer = 0;
  if (!writing && !queue.some(({ order }) => order.do === "look")) order({ do: "look" });
};
// Whether the desk has answered all that was ordered.
const isSettled = () => !(current || queue.length || writing);
const keepSoon = () => {
  stale = true;
  clearTimeout(keepTimer);
  keepTimer = setTimeout(() => {
    if (!isSettled() || syncTimer || first || connection.lost()) return keepSoon();
    stale = false;
    return order({ do: "keep" });
  }, 1200);
};

// --- answers -----------------------------------------------------------------------------------------------

// What could not be done is said where somebody asked for it; what the page does by itself, it does again later.
const unanswered = (done) => {
  if (done?.do === "guide" || done?.do === "title") unsaid.add(done.do);
  if (done && BY_ITSELF.has(done.do)) return;
  const what = done ? "That could not be done." : "The model could not go on.";
  if (!done) {
    document.querySelector(".jet-panel").dataset.phase = "error";
    document.querySelector(".jet-status").lastChild.data = connection.lost() ? "Connection lost" : "That did not work";
  }
  say(`${what} ${connection.reason()} Your text is here; you can go on writing.`, true);
};
const resend = () => {
  if (unsaid.delete("guide")) guide();
  if (unsaid.delete("title")) nameStory();
  if (stale) keepSoon();
};
connection.watch({
  lost(why) {
    const login = why.includes("log in");
    notices.show("connection", login ? `${why} Your text is here.` : "Connection lost. Your text is here; you can go on writing.",
      login ? { doing: ["Log in", () => window.open(location.href, "_blank", "noopener")] } : {});
  },
  back(wasLost) {
    notices.clear("connection");
    if (wasLost) {
      say("Connected again.");
      byId("jet-greet").click(); // it may be another server, with another model
    }
    if (first) first();
    else if (known) order({ do: "resume" }, resend);
    else bringBack(resend);
  },
});

// What a screen reader is told: that the model writes, and how that ended.
const tell = (text) => { byId("jet-state").textContent = text; };
const tellEnd = () => {
  const status = document.querySelector(".jet-status")?.textContent ?? "";
  tell(/^(Done|Stopped|That did not|Connection)/.test(status) ? status : `Done. ${status}`);
};

let sayTimer = 0;
const say = (text, bad = false, offer = null) => {
  const line = byId("jet-say") ?? Object.assign(document.createElement("div"), { id: "jet-say" });
  line.setAttribute("role", bad ? "alert" : "status");
  line.textContent = text;
  if (offer) line.append(offers.button(offer));
  line.className = bad ? "jet-bad" : "";
  byId("jet-page").append(line);
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => line.remove(), offer ? offers.PATIENCE_MS : bad ? 9000 : 5000);
};
const download = ({ name, text, type }) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
// The server gets the story again, as it stands here: nothing on the page changes by that.
const bringBack = (after) => {
  known = false;
  order({ do: "restore", copy: library.kept().copy, draft: box().value, again: true }, after);
};
// Nothing is drawn while the pointer is pressed: what is under it could move away, and then it were no click.
const LONGEST_PRESS = 1000; // milliseconds; an end that is not told, as of a list that unfolds, holds nothing up for longer
const drawings = new Map(); // what is to be drawn after it
let pressing = 0;
const release = () => {
  clearTimeout(pressing);
  pressing = 0;
  for (const [place, html] of drawings) put(place, html);
  drawings.clear();
};
document.addEventListener("pointerdown", () => {
  clearTimeout(pressing);
  pressing = setTimeout(release, LONGEST_PRESS);
}, true);
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => setTimeout(release), true);
const put = (place, html) => {
  if (!place || place.contains(naming)) return; // a name that is being typed stays
  if (pressing) return drawings.set(place, html);
  parts.draw(place, html);
  for (const time of place.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleTimeString();
};
const takes = () => [...document.querySelectorAll("#jet-ways .jet-take")].map(({ dataset }) => JSON.parse(dataset.do));
const waysAreOver = () => byId("jet-ways").classList.add("jet-picked");
const read = (text) => {
  try { return JSON.parse(text) ?? {}; } catch { return {}; } // no answer at all
};
const receive = (text, expected, done) => {
  const reply = read(text);
  if (reply.n !== expected) {
    unanswered(done);
    return {};
  }
  if (reply.lost) {
    if (!BY_ITSELF.has(done?.do)) say("The server had forgotten this story; it has it back now. Please do that again.");
    bringBack(resend);
    return {};
  }
  known = true;
  for (const step of Object.keys(steps)) steps[step] = reply[step] ?? steps[step];
  if (reply.opened || reply.wrote) byId("jet-compare").replaceChildren();
  if (reply.opened) waysAreOver(); // they are the other story's
  if (!reply.wrote && reply.branches && !takes().every(({ branch }) => reply.branches.includes(branch))) waysAreOver();
  for (const [id, html] of Object.entries(reply.html ?? {})) put(byId(id), html);
  if (reply.title !== undefined && document.activeElement !== byId("jet-title") && !unsaid.has("title")) byId("jet-title").value = reply.title;
  // A story that brings texts to stop at has its own; any other is written with those of the browser.
  if (reply.opened) byId("jet-stops").value = reply.stops?.join("\n") ?? taste.stops();
  else if (reply.stops) taste.stops(byId("jet-stops").value = reply.stops.join("\n"));
  if (reply.fresh) {
    library.turnTo(null);
    listStories();
  }
  if (reply.download) download(reply.download);
  if (done?.do === "export") library.filed();
  if (reply.kept) {
    library.keep(reply.kept);
    whereabouts.heard(told);
    told = {};
  }
  if (reply.error) say(reply.error, true);
  if (reply.say && !done?.quiet) say(reply.say, false, reply.offer);
  const of = synced; // the text that they are marks of; more may have been typed
  requestAnimationFrame(() => {
    if (reply.marks && !writing) sheet.mark(reply.marks, of ?? undefined);
  });
  return reply;
};

// --- names -------------------------------------------------------------------------------------------------

// A field in the place of an element for as long as a name is typed. What it has then is kept, unless Escape is pressed.
let naming = null;
const askName = (element, label, value, keep) => {
  const field = Object.assign(document.createElement("input"), { className: "jet-name", value, maxLength: 200, placeholder: "a name, then Enter" });
  field.setAttribute("aria-label", label);
  const close = (wanted, back) => {
    if (naming !== field) return;
    naming = null;
    element.hidden = false;
    field.remove();
    if (back) element.focus();
    if (wanted) keep(field.value);
  };
  field.addEventListener("keydown", (event) => {
    if (!["Enter", "Escape"].includes(event.key)) return;
    event.stopPropagation(); // it stops no story
    event.preventDefault();
    close(event.key === "Enter", true);
  });
  field.addEventListener("blur", () => close(field.value !== value, false));
  element.hidden = true;
  element.after(field);
  naming = field;
  field.focus();
  field.select();
};

// --- while the model writes --------------------------------------------------------------------------------

// The sheet shows its end then, unless the reader scrolls up to read on there.
let ending = 0; // the timer of the last look
let late = false; // its last words may still be on their way
let following = true;
let place = 0; // where the sheet was scrolled to when last looked at
const look = () => {
  const { scrollTop, scrollHeight, clientHeight } = live.paper();
  if (scrollTop < place || (takeover.behind() && scrollTop > place)) following = false;
  else if (scrollHeight - clientHeight - scrollTop < 4) following = true;
  place = scrollTop;
};
const showEnd = () => {
  look();
  const paper = live.paper();
  if (!following) { /* the reader reads on elsewhere */
  } else if (!takeover.behind()) paper.scrollTop = paper.scrollHeight;
  else if (live.lies()) live.follow();
  else if (takeover.rides()) caret.reveal(undefined, false);
  place = paper.scrollTop;
};
document.addEventListener("scroll", ({ target }) => {
  if (target === live.paper()) look();
  if (target === box()) sheet.scrolled();
}, true);
new MutationObserver(() => {
  const carried = byId("jet-live").querySelector(".jet-carried")?.textContent;
  if (!writing || !carried) return;
  const patch = JSON.parse(carried);
  if (patch.n !== writes) return; // of a story before
  if (patch.behind !== undefined) takeover.place(patch.behind);
  if (patch.from === undefined || takeover.isStopping()) return;
  if (live.show(patch)) place = 0;
  library.soon();
  if (following) showEnd();
}).observe(byId("jet-live"), { subtree: true, childList: true, characterData: true });

let waysOf = 0; // the writing whose ways came last; the first of them may come after its end
new MutationObserver(() => {
  const ways = byId("jet-ways");
  const fresh = Number(ways.querySelector(".jet-three")?.dataset.n);
  if (fresh !== writes || fresh === waysOf) return;
  waysOf = fresh;
  ways.classList.remove("jet-before", "jet-picked");
}).observe(byId("jet-ways"), { subtree: true, childList: true, characterData: true, attributeFilter: ["data-n"] });

const refreshLocks = () => {
  for (const button of document.querySelectorAll("[data-do], [data-write], [data-opening], #jet-new, #jet-import, #jet-ask")) {
    const mayTake = button.classList.contains("jet-take");
    if (!button.closest("#jet-popover")) button.disabled = writing && !mayTake;
  }
  byId("jet-undo").disabled = writing || !steps.undo;
  byId("jet-redo").disabled = writing || !steps.redo;
  byId("jet-retry").disabled = writing || !steps.retry;
};

const usePreset = (settings) => { if (!writing) order({ do: "own-preset", settings }); };

// The model begins to write: from the click on, whatever has to be waited for.
const begin = () => {
  clearTimeout(ending);
  late = false;
  clearTimeout(syncTimer);
  syncTimer = 0;
  wish = next ?? { do: "continue" };
  next = null;
  takeover.begin(wish);
  writing = true;
  tell("Writing");
  writes = 0; // until it has one
  following = wish.do !== "ways";
  place = box().scrollTop;
  otherWords.close();
  byId("jet-ways").classList.add("jet-before"); // none of the last writing's can be picked in this one
  byId("jet-stop").disabled = false;
  setTimeout(() => { // a button that is disabled during its click has none
    if (writing) byId("jet-go").disabled = true;
    refreshLocks();
    returnToStory();
  });
};
// A second press is no second story; one after Stop goes on when that has come.
const pressGo = (event) => {
  if (!writing) return begin();
  event.stopImmediatePropagation();
  event.preventDefault();
};
document.addEventListener("click", (event) => {
  if (event.target.closest?.("#jet-go") && !byId("jet-go").disabled) pressGo(event);
  else if (event.target.closest?.("#jet-stop")) takeover.stop();
}, true);

window.jetStories = {
  begin(names, values) {
    settings = Object.fromEntries(names.map((name, index) => [name, values[index]]));
  },
  // It is done. Gradio may put its last text into the box a moment after that.
  end(text) {
    writing = false;
    const [base, plain] = [takeover.base(), read(text)];
    const came = plain.story ?? (plain.patch ? live.text(base, plain.patch) : null);
    synced = plain.n === writes ? came : null;
    const reply = receive(text, writes);
    const [taken, ride] = [takeover.isTaken(), takeover.rides()];
    const below = taken ? null : live.take(reply.patch ?? undefined);
    const after = takeover.end(came);
    requestAnimationFrame(tellEnd);
    late = true;
    typing.restart(came ?? box().value);
    if (below !== null) {
      const behind = takeover.behind();
      const at = box().value.length - behind;
      if (ride && behind !== null) box().setSelectionRange(at, at);
      if (!behind) box().scrollTop = box().scrollHeight - below;
      else if (following) caret.reveal(at, false);
      place = box().scrollTop;
    }
    byId("jet-ways").classList.remove("jet-before");
    refreshLocks();
    send();
    keepSoon();
    if (taken) syncTimer = setTimeout(sync, 900);
    const wrote = came !== null && came !== base;
    for (const what of after) setTimeout(() => what(wrote));
    ending = setTimeout(() => {
      if (following && !taken && !writing) showEnd();
      late = false;
      returnToStory();
    }, 100);
  },
  stopOrder: () => JSON.stringify({ do: "stop", n: writes || -1, known, ...takeover.seen() }),
  async writeOrder() {
    await settled();
    const stops = byId("jet-stops").value.split("\n").filter(Boolean);
    const alternatives = byId("jet-alternatives").checked;
    const unwanted = takeover.isStopping() ? { unwanted: true } : {};
    const given = sealed({ ...wish, ...unwanted, settings, stops, alternatives, ...unsent(box().value) });
    writes = number;
    return given;
  },
  isSettled,
  // Whether the browser has the story as it stands, branches and all.
  isKept: () => !stale && isSettled(),
  actOrder() {
    // What the box has while the model writes is behind what the desk has.
    current.story = writing && writes ? null : current.story ?? box().value;
    return sealed({ ...current.order, ...unsent(current.story, current.steps) });
  },
  // Returns what the box is to hold, if that changes.
  async brought(text) {
    const { n, story, cursor, opened } = read(text);
    if (n !== number || story === undefined) return [{ __type__: "update" }];
    await caret.settled();
    try {
      return [bring(current, story, cursor ?? null, opened)];
    } catch (error) { // the orders behind it still have to come through
      console.error(error);
      caret.put(story);
      return [story];
    }
  },
  // Returns what the controls are to become.
  acted(text, names) {
    const done = current;
    current = null;
    const plain = read(text);
    synced = plain.n !== number ? null : plain.same ? done.story : plain.story ?? null;
    const reply = receive(text, number, done.order);
    if (reply.n !== undefined) done.after?.(reply);
    if (OPENING.has(done.order.do)) library.hold(false);
    if (!LOOKING.has(done.order.do)) { library.soon(); keepSoon(); }
    refreshLocks();
    returnToStory();
    if (!queue.length) for (const resolve of waiting.splice(0)) resolve();
    send();
    const controls = reply.controls ?? {};
    const panel = reply.panel && !writing ? { value: reply.panel } : {};
    return [{ __type__: "update", ...panel }, ...names.map((name) => ({ __type__: "update", ...(name in controls ? { value: controls[name] } : {}) }))];
  },
  // The settings as they are, to be had again under a name.
  keepPreset(names, values) {
    const chosen = Object.fromEntries(names.map((key, index) => [key, values[index]]));
    const wrong = ownPresets.keep(presetName, chosen);
    if (wrong) say(wrong, true);
    ownPresets.show(usePreset);
  },
  // The text has changed, by whoever.
  changed(story) {
    sheet.changed(story, (writing || late) && byId("jet-tint").value === "whose");
    library.soon();
    if ((writing || late) && following && !takeover.isTaken()) showEnd();
    return [];
  },
  // On opening the page: what this tab had, at once; its branches follow.
  begun() {
    const { draft, copy } = library.kept();
    const early = box().value; // typed before the page was ready
    const text = (draft ?? "") + early;
    caret.put(text, early ? text.length : null);
    if (early) caret.reveal(undefined, false);
    library.begin();
    whereabouts.begin(early ? "" : text, openDrawer);
    const finish = () => {
      const names = whereabouts.finish();
      if (names.includes("jet-title")) nameStory();
      if (names.some((name) => name !== "jet-title")) guide();
    };
    first = () => order({ do: "restore", copy, draft: draft === null ? null : box().value || draft }, () => { first = null; finish(); });
    if (draft !== null || copy !== null) first();
    else { first = null; finish(); }
    return text;
  },
  // The controls as this browser had them last.
  tasted: (names) => names.map((name) => {
    const [value] = name === "seed" ? [whereabouts.seed()] : taste.of(name);
    return { __type__: "update", ...(value === undefined ? {} : { value }) };
  }),
  keepTaste(names, values) {
    taste.keep(Object.fromEntries(names.map((name, index) => [name, values[index]]).filter(([name]) => name !== "seed")));
  },
};

// --- pressing ----------------------------------------------------------------------------------------------

const press = (id) => {
  const button = byId(id);
  if (button && !button.disabled) button.click();
};
// An answer brings a text. Whatever was typed since its order was given goes on top of it, and before the orders that
// were given after that. Returns the text that is on the sheet now.
const bring = (done, story, cursor, opened) => {
  const sent = done.story ?? box().value; // while the model writes, none is sent
  const change = sheet.edit(sent, story);
  let on = { text: story, at: cursor ?? typing.placeOf(sent, story, change) + change.text.length };
  const lay = (edit, was) => {
    if (edit.from !== edit.to || edit.text) on = caret.overlay(on.text, on.at, edit, was, change);
  };
  const pending = queue.filter(brings);
  for (const waits of pending) {
    lay(waits.typed.edit, waits.typed.was);
    if (waits === pending[0]) Object.assign(waits, { story: on.text, at: on.at });
  }
  const [now, was] = [box().value, pending.length ? ahead : { text: sent, at: done.at ?? box().selectionEnd }];
  const before = on;
  if (now !== was.text) lay(sheet.edit(was.text, now, box().selectionEnd), was.at);
  if (pending.length) ahead = { text: before.text, at: before.at };
  caret.put(on.text, story === sent ? null : on.at);
  sheet.changed(on.text, false);
  typing.restart(story);
  if (on.text !== story) syncTimer = syncTimer || setTimeout(sync, 900);
  if (!opened) caret.reveal();
  return on.text;
};
const withCursor = (plain) => (plain.at === -1 ? { ...plain, at: box().selectionStart } : plain);
const whenUnlocked = (what) => { // Gradio unlocks the button a moment after the end
  if (byId("jet-go").disabled) setTimeout(() => whenUnlocked(what), 20); else what();
};
const write = (plain) => {
  const wanted = withCursor(plain);
  if (writing) {
    if (takeover.isStopping()) takeover.after(() => whenUnlocked(() => write(wanted)));
    return;
  }
  next = wanted;
  press("jet-go");
};
// While the model writes, Undo takes back what that has brought, and the writing itself if it has brought nothing yet.
const stepBack = (what) => {
  if (!writing) return press(`jet-${what}`);
  if (what !== "undo") return;
  takeover.ask();
  const typed = takeover.isTaken();
  takeover.after((wrote) => { if (wrote || typed) order({ do: "undo" }); });
};
const writeOrWait = (id, plain) => { if (writing) write(plain); else press(id); };
const act = (plain, button) => {
  if (plain.do === "word") return otherWords.ask({});
  if (plain.do === "ask-name") {
    const branch = button.closest("li").querySelector(".jet-branch");
    askName(branch, "A name for this branch", plain.name, (name) => order({ do: "rename", branch: plain.branch, name }));
    return;
  }
  if (plain.do === "show") waysAreOver();
  order(withCursor(plain));
};
// Another story comes on the sheet. What is kept nowhere goes only if the writer says so.
const LEAVE = "This story is kept nowhere: the browser’s storage is full or forbidden. Once another is on the sheet it is gone, unless you save it as a file first. Go on without it?";
const replaceBy = (plain, after) => {
  if (writing) { // the writing ends first: its words belong to the story that goes
    takeover.ask();
    takeover.after(() => replaceBy(plain, after));
  } else if (!library.unkept() || confirm(LEAVE)) order(plain, after);
};
addEventListener("beforeunload", (event) => { if (library.unkept() || unsaid.size) event.preventDefault(); });
const ask = () => write({ do: "ask", about: byId("jet-about-what").value });
const openDrawer = (key) => {
  for (const tab of document.querySelectorAll(".jet-tabs [role=tab]")) {
    const chosen = tab.dataset.drawer === key;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  for (const drawn of ["settings", "report"]) byId(`jet-drawer-${drawn}`).classList.toggle("jet-closed", key !== drawn);
  if (key === "stories") listStories();
  else if (!["settings", "report", "keys"].includes(key)) order({ do: "look" });
};
const openings = () => [...document.querySelectorAll("[data-opening]")].map((button) => button.dataset.opening);

document.addEventListener("click", ({ target, isTrusted }) => {
  if (isTrusted && target !== box() && !target.closest("#jet-popover")) otherWords.close(); // orders are clicks, too, but nobody's
  const button = target.closest("[data-do], [data-write], [data-opening], [data-drawer], [data-lore-remove], button[id]");
  if (!button || button.disabled) return;
  const { dataset } = button;
  if (dataset.do) {
    act(JSON.parse(dataset.do), button);
    if (button.closest("#jet-popover")) otherWords.close();
  } else if (dataset.write) {
    button.closest("#jet-say")?.remove(); // the offer is taken
    write(JSON.parse(dataset.write));
  }
  else if (dataset.opening) {
    const before = box().value;
    order({ do: "opening", before, text: dataset.opening, again: openings().includes(before) });
  } else if (dataset.drawer) openDrawer(dataset.drawer);
  else if (dataset.loreRemove !== undefined) { button.closest(".jet-entry").remove(); guide(); }
  else if (button.id === "jet-lore-add") byId("jet-lore").append(byId("jet-lore-row").content.cloneNode(true));
  else if (button.id === "jet-ask") ask();
  else if (button.id === "jet-name-preset") askName(button, "A name for these settings", "", (name) => {
    presetName = name;
    byId("jet-keep-preset").click();
  });
  else if (button.id === "jet-new") replaceBy({ do: "new" });
});
// While the ways are written their buttons are drawn anew many times a second, and a click, which is a press and a
// release on the same button, would seldom succeed. So there the press decides.
document.addEventListener("pointerdown", ({ target, button }) => {
  const take = target.closest(".jet-take");
  if (take && writing && button === 0) act(JSON.parse(take.dataset.do));
});
document.addEventListener("beforeinput", (event) => { // as menus and phones say it
  const what = { historyUndo: "undo", historyRedo: "redo" }[event.inputType];
  if (event.target !== box() || !what) return;
  event.preventDefault();
  stepBack(what);
});
// A press with the mouse leaves the focus in the story, so that the next key goes there.
document.addEventListener("mousedown", (event) => {
  if (document.activeElement !== box() || caret.isComposing() || !matchMedia("(pointer: fine)").matches) return;
  if (event.target.closest?.("#jet-page button:not([role=tab])")) event.preventDefault();
});
// A file that is dropped on the page is opened, and not shown by the browser in the page's place.
const bringsFiles = ({ dataTransfer, target }) => dataTransfer?.types.includes("Files") && target.type !== "file";
document.addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
}, true);
document.addEventListener("drop", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  event.stopPropagation();
  const [file, more] = event.dataTransfer.files;
  if (more) say("One file at a time, please.", true); else if (file) readFile(file);
}, true);
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  const take = (what) => { event.preventDefault(); what(); };
  const shortcut = {
    stop: () => { otherWords.close(); takeover.ask(); },
    undo: () => take(() => stepBack("undo")),
    redo: () => take(() => stepBack("redo")),
    word: () => take(() => otherWords.ask({ enter: true })),
    go: () => take(() => write({ do: "continue" })),
    cursor: () => take(() => writeOrWait("jet-cursor", { do: "cursor", at: -1 })),
    ask: () => take(() => press("jet-ask")),
    retry: () => take(() => writeOrWait("jet-retry", { do: "retry" })),
    fork: () => take(() => press("jet-fork")),
  }[keys.found(event)];
  if (shortcut) shortcut();
  else if (target.role === "tab" && ["ArrowRight", "ArrowLeft", "Home", "End"].includes(key)) take(() => {
    const all = [...document.querySelectorAll(".jet-tabs [role=tab]")];
    const at = { ArrowRight: all.indexOf(target) + 1, ArrowLeft: all.indexOf(target) - 1, Home: 0, End: -1 }[key];
    const tab = all.at(at % all.length);
    tab.focus();
    openDrawer(tab.dataset.drawer);
  });
});

// --- what is typed and chosen ------------------------------------------------------------------------------

const guide = () => {
  const lore = [...document.querySelectorAll("#jet-lore .jet-entry")].map((entry) => {
    const field = (name) => entry.querySelector(`[data-lore=${name}]`);
    return {
      kept: JSON.parse(entry.dataset.kept), keywords: field("keywords").value, content: field("content").value,
      enabled: field("enabled").checked, constant: field("constant").checked,
    };
  });
  const depth = Math.round(Number(byId("jet-depth").value)) || 1;
  const about = byId("jet-about-what").value;
  const typed = whereabouts.typed();
  order({ do: "guide", about, memory: byId("jet-memory").value, note: byId("jet-note").value, depth, unit: byId("jet-unit").value, lore }, () => Object.assign(told, typed));
};
const nameStory = () => {
  const [typed, text] = [whereabouts.typed(), byId("jet-title").value];
  order({ do: "title", text }, () => { Object.assign(told, { "jet-title": typed["jet-title"] }); library.save(listStories); });
};
document.addEventListener("input", ({ target, inputType, data }) => {
  if (target !== box()) return;
  if (caret.isOwn()) return sheet.changed(target.value, byId("jet-tint").value === "whose");
  takeover.typed();
  otherWords.close();
  breaks.even(target, inputType, data);
  const before = sheet.text();
  sheet.changed(target.value, false, target.selectionEnd);
  typing.note(inputType, before, target.value, target.selectionEnd);
  steps = { ...steps, undo: true, redo: false };
  refreshLocks();
  keepSoon();
  clearTimeout(syncTimer);
  syncTimer = setTimeout(sync, target.value.length > 300_000 ? 6000 : 900);
});
document.addEventListener("change", ({ target }) => {
  if (target.closest("#jet-drawer-guidance, #jet-about-field")) guide();
  else if (target.id === "jet-title") nameStory();
  else if (target.id === "jet-tint") sync();
  else if (target.id === "jet-import" && target.files.length) {
    const [file] = target.files;
    target.value = ""; // the same one may be opened again
    readFile(file);
  }
});
const readFile = (file) => {
  if (file.size > 20_000_000) return say("This file is larger than 20 MB.", true);
  const reader = new FileReader();
  reader.onload = () => replaceBy({ do: "import", name: file.name, data: reader.result.split(",", 2)[1] ?? "" });
  reader.onerror = () => say("This file could not be read.", true);
  return reader.readAsDataURL(file);
};
const listStories = () => {
  byId("jet-library").replaceChildren(...library.stories().map(([id, { title, preview, saved, copy }]) => {
    const [row, open, remove] = ["li", "button", "button"].map((tag) => document.createElement(tag));
    open.className = "jet-branch";
    const copied = copy ? ` (copy${copy > 1 ? ` ${copy}` : ""})` : "";
    const elsewhere = tabs.open(id) ? ", open in another tab" : "";
    open.append(Object.assign(document.createElement("b"), { textContent: `${title || preview || "Untitled story"}${copied}` }));
    open.append(Object.assign(document.createElement("span"), { textContent: ` ${new Date(saved).toLocaleString()}${elsewhere}` }));
    remove.className = "jet-quiet";
    remove.textContent = "Remove";
    const here = id === library.id();
    open.disabled = remove.disabled = here;
    if (here) open.setAttribute("aria-current", "true");
    open.onclick = () => replaceBy({ do: "restore", ...library.kept(id) }, () => { library.turnTo(id); listStories(); });
    remove.onclick = () => {
      if (!confirm("Remove this story from the browser for good?")) return;
      library.remove(id);
      listStories();
    };
    row.append(open, remove);
    return row;
  }));
};
ownPresets.show(usePreset);
taste.begin();
// Gradio puts the label of a field that has buttons beside it and not around it.
document.querySelector("#jet-seed input")?.setAttribute("aria-label", "Seed");

// On opening, and whenever the page is unlocked, the writer can go on typing. Not with a finger: that would
// bring up the keyboard over the story.
const returnToStory = () => {
  const withMouse = matchMedia("(pointer: fine)").matches;
  const lost = document.activeElement === document.body || document.activeElement?.matches("button:disabled");
  if (withMouse && lost) box().focus({ preventScroll: true });
};
returnToStory();
