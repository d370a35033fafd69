import assert from "node:assert/strict";
import test from "node:test";
import {
  emptyResult,
  encodeEvent,
  endsStream,
  jsonResponse,
  parseObject,
  readRow,
  splitRows,
} from "../../assets/web/event_stream.js";

const row = (event) => `data: ${JSON.stringify(event)}`;

test("what is no JSON is an empty object", () => {
  for (const text of ["", "{", "null", undefined, new Blob()]) assert.deepEqual(parseObject(text), {});
  assert.deepEqual(parseObject('{"n":1}'), { n: 1 });
});

test("rows that end no event pass as they are", () => {
  for (const text of ["", "event: x", row({ msg: "process_generating", output: { data: ["a"] } })]) {
    assert.deepEqual(readRow(text), { row: text });
  }
});

test("the end of an event is noticed", () => {
  const done = row({ msg: "process_completed", event_id: "e", success: true, output: { data: [] } });
  assert.deepEqual(readRow(done), { row: done, completed: "e" });
});

test("a story that quotes the protocol is no end", () => {
  const quoting = row({
    msg: "process_generating",
    output: { data: ['"success":false "process_completed"'] },
  });
  assert.equal(readRow(quoting).completed, undefined);
  assert.equal(readRow(quoting).failed, undefined);
});

test("an event that failed ends with nothing, and its reason is told", () => {
  const failed = row({
    msg: "process_completed",
    event_id: "e",
    success: false,
    output: { error: "Too long." },
  });
  const read = readRow(failed);
  assert.deepEqual([read.completed, read.failed, read.fatal], ["e", "Too long.", undefined]);
  assert.deepEqual(JSON.parse(read.row.slice(6)), emptyResult("e"));
  const silent = readRow(row({ msg: "process_completed", event_id: "e", success: false, output: {} }));
  assert.equal(silent.failed, "");
});

test("a failure without an event is one of all", () => {
  const read = readRow(row({ msg: "unexpected_error", message: "Gone.", success: false }));
  assert.deepEqual([read.fatal, read.failed], [true, "Gone."]);
});

test("the end of the stream is noticed, but not in a story", () => {
  assert.ok(endsStream(row({ msg: "close_stream" })));
  assert.ok(
    !endsStream(row({ msg: "process_generating", output: { data: [`"close_stream"${"a".repeat(100)}`] } })),
  );
});

test("rows are put together from pieces that end anywhere", () => {
  const text = "data: one\n\ndata: two\n\n";
  for (let cut = 0; cut <= text.length; cut += 1) {
    const first = splitRows(text.slice(0, cut));
    const second = splitRows(first.rest + text.slice(cut));
    assert.deepEqual([...first.rows, ...second.rows], ["data: one", "", "data: two", ""]);
    assert.equal(second.rest, "");
  }
});

test("answers of our own look like the server's", async () => {
  assert.deepEqual(await jsonResponse({ event_id: "e" }).json(), { event_id: "e" });
  assert.equal(new TextDecoder().decode(encodeEvent({ a: 1 })), 'data: {"a":1}\n\n');
});
