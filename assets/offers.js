// What the page offers beside something it says: a button that gives an order at once.
const offers = {
  PATIENCE_MS: 30_000,
  // The click itself is handled where all orders are.
  button({ label, write }) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "jet-offer";
    button.textContent = label;
    button.dataset.write = JSON.stringify(write);
    return button;
  },
};
