// Shows what a reply of the server brings: HTML for the drawers, the title, files, marks, and what is said.

import { showBeginnings } from "./beginnings.js";
import { byId, field } from "./dom.js";
import * as forms from "./forms.js";
import { setMarks } from "./highlights.js";
import * as models from "./models.js";
import { state } from "./page_state.js";
import * as preferences from "./preferences.js";
import { draw } from "./redraw.js";
import * as storage from "./storage.js";
import { download, showExport } from "./story_files.js";
import { showStories } from "./story_list.js";
import * as storyWords from "./story_words.js";
import { say } from "./toast.js";
import * as variants from "./variants.js";
import { showVersions } from "./versions.js";

/** A story that brings texts to stop at has its own; any other is written with this browser's. @param {any} reply */
function showStops({ opened, stops }) {
  if (opened) field("jet-stops").value = stops?.join("\n") ?? preferences.stops();
  else if (stops) {
    field("jet-stops").value = stops.join("\n");
    preferences.keepStops(field("jet-stops").value);
  }
}

/** @param {string} title */
function showTitle(title) {
  if (document.activeElement !== byId("jet-title") && !state.unsent.has("set_title"))
    field("jet-title").value = title;
}

/** Shows a reply. @param {any} reply @param {import("./command_queue.js").Command} [done] none for a generation */
export function showReply(reply, done) {
  if (reply.opened || reply.wrote) byId("jet-compare").replaceChildren();
  if (reply.opened) variants.markPicked(); // they are the other story's
  if (!reply.wrote && reply.branches) variants.keepOnly(reply.branches);
  for (const [id, html] of Object.entries(reply.html ?? {})) draw(document.getElementById(id), html);
  if (reply.title !== undefined) showTitle(reply.title);
  if (reply.versions !== undefined) showVersions(reply.versions);
  storyWords.showTabTitle();
  if (reply.opened) storyWords.beginSession();
  else storyWords.showSoon();
  if (reply.author !== undefined && document.activeElement !== byId("jet-author"))
    field("jet-author").value = reply.author;
  showStops(reply);
  if (reply.fresh) {
    storage.switchTo(null);
    showStories();
    showBeginnings();
  }
  if (reply.download) download(reply.download);
  if (reply.exporting || reply.download || done?.type.startsWith("export")) showExport(reply.exporting);
  if (reply.download && done?.type.startsWith("export")) storage.noteFiled();
  if (reply.kept) {
    storage.saveCopy(reply.kept);
    forms.noteKept();
  }
  if (reply.models) models.show(reply.models);
  if (reply.modelChanges !== undefined) models.noteChanges(reply.modelChanges);
  if (reply.wrote) models.considerSuggestion();
  if (reply.error) say(reply.error, { bad: true });
  if (reply.say && !done?.quiet) say(reply.say, { offer: reply.offer });
  const of = state.synced ?? undefined; // the text of the marks; more may have been typed
  requestAnimationFrame(() => {
    if (reply.marks && !state.generating) setMarks(reply.marks, of);
  });
}
