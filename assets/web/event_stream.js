// The rows of Gradio's event stream, and the answers that stand in for a server that gave none. No DOM.

/** Parses JSON; an empty object for anything that is none. @param {unknown} text @returns {Record<string, any>} */
export function parseObject(text) {
  try {
    return JSON.parse(/** @type {string} */ (text)) ?? {};
  } catch {
    return {};
  }
}

/** Encodes an event. @param {object} plain */
export function encodeEvent(plain) {
  return new TextEncoder().encode(`data: ${JSON.stringify(plain)}\n\n`);
}

/** The end of an event that brings nothing, as Gradio's client wants it. @param {string} eventId */
export function emptyResult(eventId) {
  const output = { data: [], is_generating: false };
  return { msg: "process_completed", event_id: eventId, success: true, output };
}

/** Makes a response of a JSON object. @param {object} plain */
export function jsonResponse(plain) {
  const headers = { "Content-Type": "application/json" };
  return new Response(JSON.stringify(plain), { status: 200, headers });
}

/**
 * Reads a row of the stream.
 * @param {string} row
 * @returns {{ row: string, completed?: string, failed?: string, fatal?: boolean }} `row` is what Gradio's client gets:
 *   a failed event ends with nothing instead. `completed` is the event that has ended, `failed` the server's reason
 *   (empty if it gave none), `fatal` says that all events failed.
 */
export function readRow(row) {
  const mayFail = row.includes('"success":false');
  if (!mayFail && !row.includes('"process_completed"')) return { row };
  const event = parseObject(row.slice("data:".length));
  const id = event.event_id;
  if (mayFail && event.success === false) {
    const failed = event.output?.error ?? event.message ?? "";
    if (!id) return { row, failed, fatal: true };
    return { row: `data: ${JSON.stringify(emptyResult(id))}`, completed: id, failed };
  }
  return event.msg === "process_completed" ? { row, completed: id } : { row };
}

/** Tells whether a row ends the stream; long rows are not searched. @param {string} row */
export function endsStream(row) {
  return row.length < 100 && row.includes('"close_stream"');
}

/** Splits what has come so far into whole rows and the beginning of the next. @param {string} text */
export function splitRows(text) {
  const rows = text.split("\n");
  const rest = rows.pop() ?? "";
  return { rows, rest };
}
