() => {
  const key = "jet-stories:story";
  const box = () => document.querySelector("#jet-story textarea");

  // While a story is being written the sheet shows its end, unless the reader scrolls up to read on there.
  let writing = false;
  let ending = 0; // the timer of the last look
  let following = true;
  let place = 0; // where the sheet was scrolled to when last looked at
  const look = () => {
    const { scrollTop, scrollHeight, clientHeight } = box();
    if (scrollTop < place) following = false;
    else if (scrollHeight - clientHeight - scrollTop < 4) following = true;
    place = scrollTop;
  };
  const showEnd = () => {
    look();
    if (following) box().scrollTop = box().scrollHeight;
    place = box().scrollTop;
  };
  document.addEventListener("scroll", ({ target }) => { if (target === box()) look(); }, true);

  window.jetStories = {
    opening: null, // the text of the opening chosen last

    // The model begins to write, and is done. The last text may arrive a moment after that.
    begin() {
      clearTimeout(ending);
      writing = following = true;
      place = 0;
    },
    end() { ending = setTimeout(() => { showEnd(); writing = false; }, 100); },

    // The story has changed. It is kept for a reload of this tab; storage may be full or forbidden, and then
    // it just is not.
    changed(story) {
      try { sessionStorage.setItem(key, story); } catch (error) { /* nothing to fall back on */ }
      if (writing) showEnd();
      return [];
    },

    kept() {
      try { return sessionStorage.getItem(key) ?? ""; } catch (error) { return ""; }
    },
  };

  const press = (id) => {
    const button = document.getElementById(id);
    if (button && !button.disabled) button.click();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      press("jet-go");
    } else if (event.key === "Escape") {
      press("jet-stop");
    }
  });

  // On opening, and whenever the page is unlocked, the writer can go on typing. Not with a finger: that would
  // bring up the keyboard over the story.
  const returnToStory = () => {
    if (!box().disabled && document.activeElement === document.body) box().focus({ preventScroll: true });
  };
  if (matchMedia("(pointer: fine)").matches) {
    returnToStory();
    new MutationObserver(returnToStory)
      .observe(document.body, { subtree: true, attributes: true, attributeFilter: ["disabled"] });
  }
}
