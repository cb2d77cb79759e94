// What this browser keeps: the last runs, and the conversation; and what a run gives to go on from. In node.
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { test } = require("node:test");

require("../../assets/web/run.js");
require("../../assets/web/address.js");
const { Conversation, answersOf, turnsAfter } = require("../../assets/web/conversation.js");
const { Run, RunHistory, fromParameters, toParameters } = require("../../assets/web/history.js");
const { items } = JSON.parse(readFileSync(process.env.ITEMS, "utf-8"));

/** localStorage, as far as it is used: room for so many letters. */
class Storage {
  constructor(room = Infinity) {
    Object.assign(this, { room, kept: new Map() });
  }

  getItem(key) {
    return this.kept.get(key) ?? null;
  }

  setItem(key, text) {
    if (text.length > this.room) throw new Error("QuotaExceededError");
    this.kept.set(key, text);
  }
}

const names = (runs) => runs.entries.map(({ id }) => id);
const TALK = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Hello & goodbye = 1" },
  { role: "user", content: "Again" },
  { role: "assistant", content: "Hello." },
];

test("runs are kept newest first, each once, over a refresh", () => {
  const storage = new Storage();
  const runs = new RunHistory(storage);
  for (const id of ["one", "two", "one"]) runs.add(id, { text: id }, { k: 4 });
  assert.deepEqual(names(runs), ["one", "two"]);
  const again = new RunHistory(storage);
  assert.deepEqual(again.entries, runs.entries);
  assert.deepEqual(JSON.parse(again.json), [{ text: "one" }, { text: "two" }]);
  again.clear();
  assert.deepEqual(names(new RunHistory(storage)), []);
});

test("of many runs the last thirty are kept", () => {
  const runs = new RunHistory(new Storage());
  for (let run = 0; run < 40; run++) runs.add(String(run), {});
  assert.equal(runs.entries.length, 30);
  assert.equal(names(runs)[0], "39");
});

test("where the browser has no room the oldest leave, and nothing fails", () => {
  const storage = new Storage(300);
  const runs = new RunHistory(storage);
  for (const id of ["one", "two", "three"]) runs.add(id, { text: "x".repeat(100) });
  assert.deepEqual(names(runs), ["three", "two"]);
  assert.deepEqual(names(new RunHistory(storage)), ["three", "two"]);
  new RunHistory(new Storage(0)).add("one", {});
});

test("what is no list of runs is an empty one", () => {
  const storage = new Storage();
  new RunHistory(storage).add("one", {});
  const [key] = storage.kept.keys();
  for (const spoilt of ["{", "null", "3", '{"a": 1}', "[null]"]) {
    storage.setItem(key, spoilt);
    assert.deepEqual(names(new RunHistory(storage)), [], spoilt);
  }
});

test("a conversation is in the address and read back; a long one is kept by the tab", () => {
  const back = (messages, kept) => {
    const address = `?${toParameters({ prompt: "Now?", messages })}`;
    return fromParameters(new URLSearchParams(address), kept).messages;
  };
  assert.deepEqual(back(TALK), TALK);
  assert.equal(back([]), undefined);
  const long = [{ role: "user", content: "x".repeat(5000) }, { role: "assistant", content: "y" }];
  const conversation = new Conversation(new Storage());
  conversation.set(long);
  assert.deepEqual(back(long, conversation.kept), long);
  assert.deepEqual(back(long), []);
  for (const spoilt of ["{", "3", "[3]", '[["tool","x"]]', '[["user",3]]']) {
    assert.deepEqual(fromParameters(new URLSearchParams({ turns: spoilt })).messages, [], spoilt);
  }
});

test("a turn asked anew, or an answer reworded, is a branch that can be left again", () => {
  const conversation = new Conversation(null);
  conversation.set(TALK, "13 of 64");
  assert.equal(conversation.branch(2, "Now?"), "Again");
  assert.deepEqual(conversation.turns, TALK.slice(0, 2));
  assert.equal(conversation.room, "");
  assert.equal(conversation.undo(), "Now?");
  assert.deepEqual([conversation.turns, conversation.room, conversation.before], [TALK, "13 of 64", null]);
  assert.equal(conversation.reword(1, "Good day.", "Now?"), "Again");
  assert.deepEqual(conversation.turns, [TALK[0], { role: "assistant", content: "Good day." }]);
  conversation.undo();
  assert.equal(conversation.reword(3, "Good day.", "Now?"), "Now?");
});

const whole = (change = () => {}) => {
  const run = new Run("one");
  for (const item of items) run.add(item);
  change(run);
  return run;
};

test("where both arms wrote the same there is one answer to go on from, else each has its own", () => {
  const [only, ...others] = answersOf(whole());
  assert.deepEqual([only.name, only.text, others], ["", "The cat sat on a mat. cat", []]);
  const parted = whole((run) => run.arms.target.tokens.pop());
  assert.deepEqual(answersOf(parted).map(({ name, text }) => [name, text]), [
    ["Target only", "The cat sat on a mat."],
    ["Speculative", "The cat sat on a mat. cat"],
  ]);
  assert.deepEqual(answersOf(whole((run) => run.finished = null)), []);
  assert.deepEqual(answersOf(whole((run) => run.finished.reason = "error")), []);
});

test("the turns after a run are its own, what was asked and the answer", () => {
  assert.deepEqual(turnsAfter(whole(), "The cat."), [{ role: "user", content: "Hello" }, {
    role: "assistant",
    content: "The cat.",
  }]);
  const later = whole((run) => run.started.request.messages = TALK);
  assert.deepEqual(turnsAfter(later, "x").slice(0, 4), TALK);
  const noPrompt = whole((run) => Object.assign(run.started.request, { prompt: "", messages: TALK.slice(0, 3) }));
  assert.deepEqual(turnsAfter(noPrompt, "x").map(({ content }) => content), [
    "Hi",
    "Hello & goodbye = 1",
    "Again",
    "x",
  ]);
});
