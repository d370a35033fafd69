// Another story comes on the page. What is kept nowhere goes only if the writer says so.

import { order } from "./commands.js";
import { state } from "./page_state.js";
import * as stopOnTyping from "./stop_on_typing.js";
import { isUnkept } from "./storage.js";

const LEAVE =
  "This story is saved nowhere: the browser’s storage is full or forbidden. Once another is opened it is gone, " +
  "unless you save it as a file first. Go on without it?";

/**
 * Gives a command that brings another story.
 * @param {import("./command_queue.js").Command} plain
 * @param {(reply: any) => void} [after]
 */
export function replaceStory(plain, after) {
  if (state.generating) {
    // The generation ends first: its words belong to the story that goes.
    stopOnTyping.requestStop();
    stopOnTyping.afterEnd(() => replaceStory(plain, after));
  } else if (!isUnkept() || confirm(LEAVE)) order(plain, after);
}

/** Starts asking before the tab is closed. */
export function install() {
  addEventListener("beforeunload", (event) => {
    if (isUnkept() || state.unsent.size) event.preventDefault();
  });
}
