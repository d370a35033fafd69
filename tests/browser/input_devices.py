"""Input that Playwright has no call for: input methods, autocorrection, drops, slow connections, touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import CDPSession, Page

from tests.browser.page_actions import STORY

ALT, CONTROL, META = 1, 2, 4  # modifiers as the protocol counts them


class InputDevices:
    """The input devices of one page, driven by Chromium's debugging protocol."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session: CDPSession = page.context.new_cdp_session(page)

    @contextmanager
    def latency(self, milliseconds: int) -> Iterator[None]:
        """Delay every answer of the server by this time inside the block."""
        self.session.send("Network.enable")
        self._delay(milliseconds)
        try:
            yield
        finally:
            self._delay(0)

    def _delay(self, milliseconds: int) -> None:
        line = {"offline": False, "latency": milliseconds, "downloadThroughput": -1, "uploadThroughput": -1}
        self.session.send("Network.emulateNetworkConditions", line)

    def compose(self, *steps: str) -> None:
        """Show these texts one after the other as an input method's composition, without committing any."""
        for text in steps:
            place = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
            self.session.send("Input.imeSetComposition", place)

    def commit(self, text: str) -> None:
        """Insert a text without a key press, as input methods, word suggestions and dictation do."""
        self.session.send("Input.insertText", {"text": text})

    def correct(self, text: str, start: int, end: int) -> None:
        """Replace the text from `start` to `end` (UTF-16 units) as a phone's autocorrection does."""
        place = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        self.session.send(
            "Input.imeSetComposition", {**place, "replacementStart": start, "replacementEnd": end}
        )
        self.commit(text)

    def key(self, key: str, code: str, modifiers: int = 0, text: str = "") -> None:
        """Press a key that inserts `text`, as on a foreign keyboard layout."""
        number = ord(code[-1]) if code.startswith("Key") else 0
        told: dict[str, Any] = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        down = {"type": "keyDown" if text else "rawKeyDown", "text": text, "unmodifiedText": text}
        self.session.send("Input.dispatchKeyEvent", {**down, **told, "modifiers": modifiers})
        self.session.send("Input.dispatchKeyEvent", {"type": "keyUp", **told, "modifiers": modifiers})

    def drop(self, text: str, x: float, y: float) -> None:
        """Drop a text that was dragged from another program, at a point in pixels."""
        data = {"items": [{"mimeType": "text/plain", "data": text}], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    def tap(self, x: float, y: float, times: int = 1) -> None:
        """Tap the screen with a finger at a point in pixels, `times` times."""
        for _ in range(times):
            self.session.send(
                "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
            )
            self.session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def put_on_clipboard(page: Page, text: str) -> None:
    """Put a text on the clipboard by cutting it out of the editor, which is then empty."""
    page.fill(STORY, text)
    page.focus(STORY)
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+x")


def caret(page: Page) -> list[int]:
    """Return start and end of the selection, in UTF-16 units."""
    found: list[int] = page.eval_on_selector(STORY, "(sheet) => [sheet.selectionStart, sheet.selectionEnd]")
    return found


def settle(page: Page) -> None:
    """Wait until the server has answered every request and the page has applied the answers."""
    page.wait_for_timeout(50)
    page.wait_for_function("jetStories.isSettled()")


def place_of(page: Page, start: int, end: int) -> tuple[float, float]:
    """Return the point, in pixels, in the middle of the first line of the text from `start` to `end`."""
    x, y = page.evaluate(
        """([selector, start, end]) => {
            const sheet = document.querySelector(selector), style = getComputedStyle(sheet);
            const copy = document.createElement("div"), frame = sheet.getBoundingClientRect();
            for (const name of ["font", "letterSpacing", "padding", "direction", "textAlign", "unicodeBidi"])
                copy.style[name] = style[name];
            Object.assign(copy.style, { position: "absolute",
                left: `${frame.left + scrollX + sheet.clientLeft}px`,
                top: `${frame.top + scrollY + sheet.clientTop}px`, width: `${sheet.clientWidth}px`,
                boxSizing: "border-box", whiteSpace: "pre-wrap", overflowWrap: "break-word" });
            copy.textContent = sheet.value;
            document.body.append(copy);
            const range = document.createRange();
            range.setStart(copy.firstChild, start);
            range.setEnd(copy.firstChild, end);
            const place = range.getClientRects()[0];
            copy.remove();
            return [(place.left + place.right) / 2, (place.top + place.bottom) / 2 - sheet.scrollTop];
        }""",
        [STORY, start, end],
    )
    return x, y


def in_sight(page: Page, at: int) -> bool:
    """Return True if a position of the text is visible without scrolling."""
    _, y = place_of(page, max(0, at - 1), at)
    top, bottom = page.eval_on_selector(
        STORY, "(e) => { const b = e.getBoundingClientRect(); return [b.top, b.bottom]; }"
    )
    return bool(max(0, top) <= y <= min(bottom, page.viewport_size["height"]))  # type: ignore[index]
