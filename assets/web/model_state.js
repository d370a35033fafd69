// The change to another model in words, and when to ask for it again. No DOM.

/**
 * The state of a change, as the server tells it.
 * @typedef {{
 *   stage: string, title: string, done: number, total: number, rate: number | null, stalled: boolean,
 *   message: string, active: boolean, canCancel: boolean, measuring: boolean, suggestion: string, list: string,
 *   added?: boolean,
 * }} ModelState
 */

const [WATCHED_MS, UNWATCHED_MS, MEASURING_MS, IDLE_MS] = [700, 2500, 1000, 5000];

/** Writes bytes: 1.2 GB, 64 MB. @param {number} bytes */
export const inWords = (bytes) =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

/** Writes a duration: 40 s, 12 min, 1 h 5 min. @param {number} seconds */
export function timeInWords(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Says how far a change is. @param {ModelState} state */
export function progressWords(state) {
  const { stage, title, done, total, rate, stalled, message } = state;
  if (!state.active) return message;
  if (stage === "downloading" && total) {
    const parts = [`Downloading ${title}: ${inWords(done)} of ${inWords(total)}`];
    if (stalled) parts.push("waiting for the network");
    else if (rate) parts.push(`${inWords(rate)}/s`, `${timeInWords((total - done) / rate)} left`);
    return parts.join(", ");
  }
  if (stage === "quantizing" && total) return `${title}: ${message} (${Math.floor((100 * done) / total)} %)`;
  return `${title}: ${message}…`;
}

/** How much of a step is done, from 0 to 1; null if that is not known. @param {ModelState} state */
export const progressOf = ({ active, done, total }) => (active && total ? Math.min(1, done / total) : null);

/** Milliseconds until the state is asked for again; null for not at all. @param {ModelState} state @param {boolean} watched */
export function pollDelay({ active, measuring }, watched) {
  if (active) return watched ? WATCHED_MS : UNWATCHED_MS;
  if (!watched) return null;
  return measuring ? MEASURING_MS : IDLE_MS; // another tab may begin a change
}
