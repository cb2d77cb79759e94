/* The browser's copy of a trace, and the clock it is shown by. It draws nothing and works out no figure:
   items come from app/ui/render.py, each with the line of the trace file it stands for. */
(() => {
  const Playground = (window.Playground ??= {});
  const ARMS = ["target", "speculative"];
  const NAMES = { target: "Target only", speculative: "Speculative" };

  /** One run: its lines as they stand in the trace file, and its tokens and rounds by arm. */
  class Run {
    constructor(id = "") {
      this.id = id;
      this.lines = [];
      this.labels = new Map();
      this.special = new Set();
      this.started = this.finished = this.verdict = this.analysis = null;
      this.waiting = 0;
      this.error = "";
      this.agreed = 0;
      this.diverged = null;
      this.arms = { target: { name: "target", rounds: [], tokens: [] }, speculative: { name: "speculative", rounds: [], tokens: [] } };
    }

    add(item) {
      this.waiting = item.waiting ?? 0;
      if (item.error) this.error = item.error;
      if (!item.line) return;
      this.lines.push(item.line);
      const event = JSON.parse(item.line);
      if (event.type === "run_started") this.started = event;
      else if (event.type === "token_texts") {
        for (const [id, label] of Object.entries(item.labels)) this.labels.set(Number(id), label);
        for (const id of event.special) this.special.add(id);
      } else if (event.type === "round") this.#addRound(event, item);
      else {
        this.finished = event;
        this.verdict = item.verdict;
        this.analysis = item.analysis;
      }
    }

    #addRound(event, item) {
      const arm = this.arms[event.arm];
      const before = arm.rounds.at(-1);
      const round = { ...event, line: this.lines.length, clock: item.clock, since: before ? before.clock : 0, figures: item.figures, draftTexts: item.drafts, tokens: [], refused: [] };
      const token = (fields) => {
        const made = { arm: event.arm, round, index: arm.tokens.length, clock: item.clock, special: this.special.has(fields.id), text: item.texts[round.tokens.length], ...fields };
        round.tokens.push(made);
        arm.tokens.push(made);
      };
      event.drafted.forEach((drafted, place) => {
        if (drafted.state === "accepted") token({ id: drafted.id, kind: "accepted", place, drafted });
        else round.refused.push({ arm: event.arm, round, id: drafted.id, kind: drafted.state, place, drafted, clock: item.clock, special: this.special.has(drafted.id), text: item.drafts[place], index: null });
      });
      if (event.final) token({ id: event.final.id, kind: event.final.provenance, place: round.tokens.length, final: event.final });
      arm.rounds.push(round);
      this.agreed = item.agreed;
      this.diverged = item.diverged;
    }

    label(id) {
      return this.labels.get(id) ?? `#${id}`;
    }

    /** Seconds on the clock of the arm that took longer. */
    get duration() {
      return Math.max(0, ...ARMS.map((arm) => this.arms[arm].rounds.at(-1)?.clock ?? 0));
    }

    /** The arms that have something to show. */
    get running() {
      const asked = this.started?.request.arms ?? "both";
      return asked === "both" ? ARMS : [asked];
    }

    get jsonl() {
      return this.lines.join("\n") + "\n";
    }

    /** Whether the arms ran one after the other, on a device that holds one sequence: only a replay shows their race. */
    get inTurn() {
      const [target, speculative] = ARMS.map((arm) => this.arms[arm].rounds);
      return target.length > 1 && speculative.length > 1 && speculative[0].line > target.at(-1).line;
    }

    /** Every moment at which a round of either arm ended, in order. */
    get moments() {
      return [...new Set(ARMS.flatMap((arm) => this.arms[arm].rounds.map((round) => round.clock)))].sort((a, b) => a - b);
    }
  }

  /** The last round of an arm that had ended by `time`; undefined before the first. */
  const roundAt = (arm, time) => {
    let low = 0;
    let high = arm.rounds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (arm.rounds[middle].clock <= time + 1e-9) low = middle + 1;
      else high = middle;
    }
    return arm.rounds[low - 1];
  };

  /** The run on the page, and the moment of it that is shown. Views listen to: run, items, time, state. */
  class Store extends EventTarget {
    run = new Run();
    live = false;
    time = Infinity;
    playing = false;
    speed = 1;
    isolated = null;
    /** A promise while the server is asked for what this browser did not see. */
    asked = null;
    #seen = -1;
    #slots = [];
    #frame = 0;

    tell(type) {
      this.dispatchEvent(new Event(type));
    }

    on(types, listener) {
      for (const type of types.split(" ")) this.addEventListener(type, listener);
    }

    /** A new run begins: called as Run is pressed, before the server has answered. */
    begin(id) {
      this.pause();
      this.run = new Run(id);
      this.#seen = -1;
      this.#slots = [];
      this.asked = null;
      this.live = true;
      this.time = Infinity;
      this.tell("run");
      this.tell("state");
    }

    /** Take in the component's value: the slots of the ring that were not seen yet, in their order. `missed` asks the server
     * for those that this browser was too busy, or too far in the background, to see. */
    receive(slots, missed) {
      const before = this.#slots;
      this.#slots = [...(slots ?? [])];
      const fresh = this.#slots.filter((slot, place) => slot && slot !== before[place]);
      this.#take(fresh, missed);
    }

    #take(slots, missed) {
      if (this.asked) return;
      const read = slots.map((slot) => JSON.parse(slot)).filter((slot) => slot.run === this.run.id && slot.seq > this.#seen);
      const fresh = [...new Map(read.map((slot) => [slot.seq, slot])).values()].sort((a, b) => a.seq - b.seq);
      if (!fresh.length) return;
      if (fresh[0].seq !== this.#seen + 1) {
        this.asked = this.#ask(missed);
        return;
      }
      this.#seen = fresh.at(-1).seq;
      for (const slot of fresh) for (const item of slot.items) this.run.add(item);
      this.tell("items");
      if (this.run.finished || this.run.error) this.settle();
    }

    async #ask(missed) {
      const { run } = this;
      const answer = await missed({ run: run.id, seq: this.#seen + 1 }).catch(() => ({ error: "This browser fell behind and lost part of the run; run it again." }));
      if (this.run !== run) return;
      this.asked = null;
      if (answer.error) {
        run.error = answer.error;
        this.tell("items");
        this.settle();
      } else this.#take([...answer.slots, ...this.#slots.filter(Boolean)], missed);
    }

    /** The server has no more to say of this run. */
    settle() {
      if (!this.live) return;
      this.live = false;
      this.tell("state");
      if (this.run.inTurn) this.play();
    }

    /** Show a whole trace. */
    show(items) {
      this.pause();
      this.run = new Run(`shown-${Date.now()}`);
      this.live = false;
      this.time = Infinity;
      for (const item of items) this.run.add(item);
      this.tell("run");
      this.tell("items");
      this.tell("state");
    }

    seek(time) {
      this.time = time >= this.run.duration ? Infinity : Math.max(0, time);
      this.tell("time");
    }

    /** By one round of either arm, forwards or back. */
    step(direction) {
      this.pause();
      const moments = this.run.moments;
      const now = Math.min(this.time, this.run.duration);
      const next = direction > 0 ? moments.find((moment) => moment > now + 1e-9) : moments.findLast((moment) => moment < now - 1e-9);
      this.seek(next ?? (direction > 0 ? Infinity : 0));
    }

    play() {
      if (this.live || !this.run.lines.length) return;
      if (this.time === Infinity) this.time = 0;
      this.playing = true;
      let last = performance.now();
      const tick = (now) => {
        if (!this.playing) return;
        this.seek(this.time + ((now - last) / 1000) * this.speed);
        last = now;
        if (this.time === Infinity) this.pause();
        else this.#frame = requestAnimationFrame(tick);
      };
      this.#frame = requestAnimationFrame(tick);
      this.tell("state");
    }

    pause() {
      cancelAnimationFrame(this.#frame);
      if (!this.playing) return;
      this.playing = false;
      this.tell("state");
    }

    isolate(kind) {
      this.isolated = this.isolated === kind ? null : kind;
      this.tell("isolate");
    }
  }

  /** The last trace, kept in this browser so that a refresh can give it back. A courtesy: it fails quietly. */
  let database = null;
  const onShelf = async (mode, act) => {
    try {
      database ??= new Promise((resolve, reject) => {
        const opening = indexedDB.open("speculative-sampling-playground", 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore("traces");
        opening.onsuccess = () => resolve(opening.result);
        opening.onerror = () => reject(opening.error);
      });
      const store = (await database).transaction("traces", mode).objectStore("traces");
      return await new Promise((resolve, reject) => {
        const request = act(store);
        request.onsuccess = () => resolve(request.result ?? null);
        request.onerror = () => reject(request.error);
      });
    } catch {
      return null;
    }
  };
  const shelf = {
    put: (text) => onShelf("readwrite", (store) => store.put(text, "last")),
    get: () => onShelf("readonly", (store) => store.get("last")),
  };

  /** An element: h("div", { class: "x", onclick }, child or text, ...). Text is always text. */
  const h = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  const missing = (value) => value === null || value === undefined;
  const format = {
    ms: (seconds) => (missing(seconds) ? "–" : (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)),
    seconds: (value) => (missing(value) ? "–" : `${value.toFixed(2)} s`),
    number: (value, digits = 2) => (missing(value) ? "–" : value.toFixed(digits)),
    percent: (value) => (missing(value) ? "–" : `${Math.round(value * 100)}%`),
    /** A probability: three digits, and never a false 0 or 1. */
    chance: (value) => {
      if (missing(value)) return "–";
      if (value > 0 && value < 0.0005) return value.toExponential(0).replace("e-", "e−");
      if (value < 1 && value > 0.9995) return ">0.999";
      return value === 0 || value === 1 ? String(value) : value.toFixed(3);
    },
    plural: (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`,
  };

  const store = new Store();

  Object.assign(Playground, { ARMS, NAMES, Run, Store, roundAt, shelf, h, format, store });
})();
