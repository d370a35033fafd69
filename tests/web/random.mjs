// Random numbers and texts from a seed, so that a failure comes again.

/** @param {number} seed */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

// Few letters, so that texts share beginnings, ends and repetitions; some are two units long.
const LETTERS = ["a", "b", " ", "\n", "😀", "é"];

/** @param {() => number} random @param {number} [most] */
export function randomText(random, most = 12) {
  const length = Math.floor(random() * most);
  return Array.from({ length }, () => LETTERS[Math.floor(random() * LETTERS.length)]).join("");
}
