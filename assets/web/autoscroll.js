// Follows the end of the new words while the model writes, unless the reader scrolls up to read on there.

import { editor } from "./editor.js";
import { followScroll } from "./highlights.js";
import { caretFollows, suffix } from "./stop_on_typing.js";
import * as overlay from "./stream_overlay.js";
import { reveal } from "./viewport.js";

const AT_END_PX = 4;
let following = true;
let lastTop = 0; // where the story was scrolled to when last looked at

/** Notes where the reader is: scrolling away from the new words ends following, coming back begins it again. */
function look() {
  const { scrollTop, scrollHeight, clientHeight } = overlay.scroller();
  if (scrollTop < lastTop || (suffix() && scrollTop > lastTop)) following = false;
  else if (scrollHeight - clientHeight - scrollTop < AT_END_PX) following = true;
  lastTop = scrollTop;
}

/** Tells whether the end of the new words is followed. */
export const isFollowing = () => following;

/** A generation begins. @param {boolean} follow */
export function begin(follow) {
  following = follow;
  lastTop = editor().scrollTop;
}

/** A new overlay lies on the box, scrolled to its top. */
export function noteNewOverlay() {
  lastTop = 0;
}

/** Notes that the page itself has scrolled the box. */
export function noteScroll() {
  lastTop = editor().scrollTop;
}

/** Brings the end of the new words into sight, if it is followed. */
export function showEnd() {
  look();
  const scroller = overlay.scroller();
  if (following) {
    if (!suffix()) scroller.scrollTop = scroller.scrollHeight;
    else if (overlay.isShown()) overlay.scrollToEnd();
    else if (caretFollows()) reveal(undefined, { page: false });
  }
  lastTop = scroller.scrollTop;
}

/** Starts watching the reader scroll. */
export function install() {
  document.addEventListener(
    "scroll",
    ({ target }) => {
      if (target === overlay.scroller()) look();
      if (target === editor()) followScroll();
    },
    true,
  );
}
