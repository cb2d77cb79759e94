// What of the page's scripts is pure, in node: the run, the store and its clock, numbers for people.
// ITEMS names a file with what app/ui/render.py makes of the run in tests/support/traces.py.
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { test } = require("node:test");

require("../../assets/web/run.js");
require("../../assets/web/format.js");
const { packed, sent } = require("../../assets/web/sending.js");
const { Run, Store, roundAt, format } = require("../../assets/web/store.js");
const { tpotOf } = require("../../assets/web/tpot_plot.js");
const { items, ids } = JSON.parse(readFileSync(process.env.ITEMS, "utf-8"));

const whole = () => {
  const run = new Run("one");
  for (const item of items) run.add(item);
  return run;
};
const slots = (run, from = 0) =>
  items.slice(from).map((item, i) => JSON.stringify({ run, seq: from + i, items: [item] }));
const live = () => {
  const store = new Store();
  store.begin("one");
  return store;
};
const shown = () => {
  const store = new Store();
  store.show(items, true);
  return store;
};

test("a run holds the tokens of both arms, each with its kind and its round", () => {
  const run = whole();
  for (const arm of ["target", "speculative"]) {
    assert.deepEqual(run.arms[arm].tokens.map(({ id }) => id), ids[arm]);
    assert.deepEqual(run.arms[arm].tokens.map(({ index }) => index), ids[arm].map((_, place) => place));
  }
  const kinds = run.arms.speculative.tokens.map(({ kind }) => kind);
  assert.deepEqual(kinds, ["target", "accepted", "accepted", "accepted", "bonus", "accepted", "corrected", "target"]);
  const refused = run.arms.speculative.rounds.flatMap((round) => round.refused.map(({ kind }) => kind));
  assert.deepEqual(refused, ["rejected", "discarded"]);
});

test("the lines are those of the trace file, unchanged", () => {
  assert.equal(whole().jsonl, items.filter(({ line }) => line).map(({ line }) => `${line}\n`).join(""));
});

test("roundAt is the last round that had ended", () => {
  const arm = whole().arms.target;
  assert.equal(roundAt(arm, -1), undefined);
  assert.equal(roundAt(arm, Infinity), arm.rounds.at(-1));
  arm.rounds.forEach((round, place) => {
    assert.equal(roundAt(arm, round.clock), round);
    assert.equal(roundAt(arm, round.clock - 1e-6), arm.rounds[place - 1]);
  });
});

test("moments are the ends of all rounds, each once and in order", () => {
  const { moments, duration } = whole();
  assert.deepEqual(moments, [...new Set(moments)].sort((a, b) => a - b));
  assert.equal(moments.at(-1), duration);
});

test("a label of an unknown id is its number", () => {
  assert.equal(whole().label(1_000_000), "#1000000");
});

test("slots are taken once, in their order, and only those of this run", () => {
  const store = live();
  const all = slots("one");
  store.receive(slots("other"));
  assert.equal(store.run.lines.length, 0);
  store.receive([all[1], all[0], all[2]]);
  store.receive([all[1], all[0], all[2]]);
  assert.equal(store.run.lines.length, 3);
  assert.ok(store.live);
  store.receive(all);
  assert.equal(store.run.jsonl, whole().jsonl);
  assert.ok(!store.live);
});

test("a gap is asked for, and what comes meanwhile is not lost", async () => {
  const store = live();
  const all = slots("one");
  const asked = [];
  const missed = (question) => {
    asked.push(question);
    return Promise.resolve({ slots: all.slice(0, 4) });
  };
  store.receive(all.slice(2, 4), missed);
  store.receive(all.slice(2), missed);
  await store.asked;
  assert.deepEqual(asked, [{ run: "one", seq: 0 }]);
  assert.equal(store.run.jsonl, whole().jsonl);
});

test("a server that does not answer ends the run with a sentence", async () => {
  const store = live();
  store.receive(slots("one", 3), () => Promise.reject(new Error("gone")));
  await store.asked;
  assert.match(store.run.error, /run it again\.$/);
  assert.ok(!store.live);
});

test("an answer for a run that is no longer shown is left", async () => {
  const store = live();
  store.receive(slots("one", 3), () => Promise.resolve({ slots: slots("one") }));
  const { asked } = store;
  store.begin("two");
  await asked;
  assert.equal(store.run.lines.length, 0);
});

test("seeking stays within the run; its end is beyond every moment", () => {
  const store = shown();
  store.seek(-1);
  assert.equal(store.time, 0);
  store.seek(store.run.duration);
  assert.equal(store.time, Infinity);
});

test("steps forward reach the end through every moment, steps back the start", () => {
  const store = shown();
  store.seek(0);
  const passed = new Set();
  for (let steps = 0; store.time !== Infinity && steps < 1000; steps++) {
    store.step(1);
    passed.add(store.time);
  }
  const { moments } = store.run;
  const near = (moment) => [...passed].some((time) => Math.abs(time - moment) < 1e-8); // sums of seconds in two orders
  assert.deepEqual(moments.slice(0, -1).filter((moment) => !near(moment)), []);
  for (let steps = 0; store.time > 0 && steps < 1000; steps++) store.step(-1);
  assert.equal(store.time, 0);
});

test("every verdict is passed on the way on, and again on the way back", () => {
  const store = shown();
  const verdicts = (direction, ended) => {
    const seen = new Set();
    for (let steps = 0; !ended() && steps < 1000; steps++) {
      store.step(direction);
      if (store.window?.verdicts) seen.add(`${store.window.round.index}: ${store.window.verdicts}`);
    }
    return [...seen];
  };
  const expected = store.run.arms.speculative.rounds.flatMap(({ index, drafted }) =>
    drafted.filter(({ state }) => state !== "discarded").map((_, place) => `${index}: ${place + 1}`)
  );
  store.seek(0);
  assert.deepEqual(verdicts(1, () => store.time === Infinity), expected);
  assert.deepEqual(verdicts(-1, () => store.time === 0 && !store.window).reverse(), expected);
});

test("listeners are told of each of the types they named", () => {
  const store = new Store();
  const told = [];
  store.on("run state", ({ type }) => told.push(type));
  store.begin("one");
  assert.deepEqual(told, ["run", "state"]);
});

test("a kind is isolated, and no longer when it is chosen again", () => {
  const store = new Store();
  store.isolate("bonus");
  assert.equal(store.isolated, "bonus");
  store.isolate("bonus");
  assert.equal(store.isolated, null);
});

test("a long text is sent packed, and what does not arrive is a sentence", async (t) => {
  const long = "speculative ".repeat(20_000);
  assert.equal(await packed("short"), "short");
  const { gzip } = await packed(long);
  assert.equal(require("node:zlib").gunzipSync(Buffer.from(gzip, "base64")).toString(), long);
  const refusing = () => Promise.reject(new Error("413"));
  const { error } = await sent(refusing, long);
  assert.match(error, /does not answer/);
  t.mock.method(globalThis, "fetch", () => Promise.resolve({ ok: true }));
  assert.match((await sent(refusing, long)).error, /a proxy before it/);
  assert.deepEqual(await sent((text) => Promise.resolve({ text }), "short"), { text: "short" });
});

test("numbers for people: missing ones are a dash, none is a false 0 or 1", () => {
  for (const write of [format.ms, format.seconds, format.number, format.percent, format.chance]) {
    assert.equal(write(null), "–");
    assert.equal(write(undefined), "–");
  }
  assert.equal(format.ms(0.00664), "6.6");
  assert.equal(format.ms(0.25), "250");
  assert.equal(format.percent(0.5), "50%");
  assert.equal(format.number(1.4651), "1.47");
  assert.equal(format.chance(0), "0");
  assert.equal(format.chance(1), "1");
  assert.equal(format.chance(0.5), "0.500");
  assert.equal(format.chance(0.0001), "1e−4");
  assert.equal(format.chance(0.99999), ">0.999");
  assert.equal(format.plural(1, "token"), "1 token");
  assert.equal(format.plural(2000, "token"), "2,000 tokens");
});

test("a round of the plot is its seconds over its tokens at its last token, beside the TPOT so far", () => {
  const near = (list, expected) => {
    assert.equal(list.length, expected.length);
    list.forEach((value, place) => assert.ok(Math.abs(value - expected[place]) < 1e-9, `${list} for ${expected}`));
  };
  const { arms } = whole();
  const [tokens, rounds, means] = tpotOf(arms.speculative, Infinity);
  assert.deepEqual(tokens, [5, 7, 8]);
  near(rounds, [16 / 4, 16 / 2, 13]);
  near(means, [16 / 4, 32 / 6, 45 / 7]);
  const alone = tpotOf(arms.target, Infinity);
  assert.deepEqual(alone[0], [2, 3, 4, 5, 6, 7, 8]);
  near(alone[1], Array(7).fill(10));
  const moment = arms.speculative.rounds[2].clock;
  assert.deepEqual(tpotOf(arms.speculative, moment)[0], [5, 7]);
  assert.deepEqual(tpotOf(arms.speculative, 0), [[], [], []]);
});
