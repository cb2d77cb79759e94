/* The run that is shown, and the clock it is shown by. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, Run, roundAt } = Playground;

  const TINY = 1e-9; // seconds
  const TICK_MS = 70;
  const FIT = "fit"; // the pace at which the arm that took longer takes as long as eyes need
  const FIT_SECONDS = 8;

  /** How many of a window's drafts the acceptor looked at. */
  const judgedOf = (round) => round.drafted.filter(({ state }) => state !== "discarded").length;

  /** The run on the page, and the moment of it that is shown. Views listen to: run, items, time, state. */
  class Store extends EventTarget {
    run = new Run();
    live = false;
    time = Infinity;
    playing = false;
    pace = FIT;
    /** Whether a run that has just ended is shown again, slowly. */
    slowMotion = false;
    isolated = null;
    /** A promise while the server is asked for what this browser did not see. */
    asked = null;
    #seen = -1;
    #slots = [];
    #timer = 0;
    #stage = null;

    tell(type) {
      this.dispatchEvent(new Event(type));
    }

    on(types, listener) {
      for (const type of types.split(" ")) this.addEventListener(type, listener);
    }

    /** A new run begins: called as Run is pressed, before the server has answered. */
    begin(id) {
      this.pause();
      this.#stage = null;
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
      const read = slots.map((slot) => JSON.parse(slot)).filter((slot) =>
        slot.run === this.run.id && slot.seq > this.#seen
      );
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
      const answer = await missed({ run: run.id, seq: this.#seen + 1 }).catch(() => ({
        error: "This browser fell behind and lost part of the run; run it again.",
      }));
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
      if (this.run.inTurn && this.slowMotion) this.play();
      else this.#playSlowly();
    }

    /** Show a whole trace. quietly: at its end, without playing it. */
    show(items, quietly = false) {
      this.pause();
      this.#stage = null;
      this.run = new Run(`shown-${Date.now()}`);
      this.live = false;
      this.time = Infinity;
      for (const item of items) this.run.add(item);
      this.tell("run");
      this.tell("items");
      this.tell("state");
      if (!quietly) this.#playSlowly();
    }

    seek(time) {
      this.#stage = null;
      this.time = time >= this.run.duration ? Infinity : Math.max(0, time);
      this.tell("time");
    }

    /** The window under way at the moment shown: {round, drafts: how many of them are proposed, verdicts: how many of those
     * have fallen}. A replay shows the drafts come one by one; a step, the verdicts too. Null where none is under way. */
    get window() {
      if (this.#stage) return this.#stage;
      if (this.live || this.time === Infinity) return null;
      const arm = this.run.arms.speculative;
      const ended = roundAt(arm, this.time);
      const round = arm.rounds[ended ? ended.index + 1 : 0];
      if (!round?.drafted.length) return null;
      const share = round.draft_seconds > 0 ? (this.time - round.since) / round.draft_seconds : 1;
      return { round, drafts: Math.min(round.drafted.length, Math.floor(share * round.drafted.length)), verdicts: 0 };
    }

    /** To the next moment at which something happens, or back: a verdict inside a window, or a round's end. */
    step(direction) {
      this.pause();
      if (this.#stage) this.#stepInside(this.#stage, direction);
      else if (direction > 0) this.#enter();
      else this.#enterFromBehind();
    }

    /** The window of the speculative arm that ends at this moment. */
    #endingAt(moment) {
      const round = this.run.arms.speculative.rounds.find(({ clock }) => Math.abs(clock - moment) < TINY);
      return round?.drafted.length ? round : null;
    }

    #enterFromBehind() {
      const now = Math.min(this.time, this.run.duration);
      const before = this.run.moments.findLast((moment) => moment < now - TINY) ?? 0;
      const round = this.#endingAt(now);
      this.seek(before);
      if (!round) return;
      this.#stage = { round, drafts: round.drafted.length, verdicts: judgedOf(round) };
      this.tell("time");
    }

    #enter() {
      const next = this.run.moments.find((moment) => moment > this.time + TINY);
      if (next === undefined) return this.seek(Infinity);
      const round = this.#endingAt(next);
      if (!round) return this.seek(next);
      const drafts = round.drafted.length;
      const now = this.window; // where all drafts stand there already, the first verdict is next
      this.#stage = { round, drafts, verdicts: now?.round === round && now.drafts === drafts ? 1 : 0 };
      this.tell("time");
    }

    /** Show a window of the speculative arm as its drafts have just been made. */
    showWindow(round) {
      this.pause();
      this.time = round.since;
      this.#stage = { round, drafts: round.drafted.length, verdicts: 0 };
      this.tell("time");
    }

    #stepInside({ round, drafts, verdicts }, direction) {
      if (direction > 0 && verdicts === judgedOf(round)) return this.seek(round.clock);
      this.#stage = direction < 0 && verdicts === 0 ? null : { round, drafts, verdicts: verdicts + direction };
      this.tell("time");
    }

    /** How fast a replay runs, in seconds of the run a second. */
    get speed() {
      return this.pace === FIT ? Math.min(1, (this.run.duration || 1) / FIT_SECONDS) : this.pace;
    }

    set speed(pace) {
      this.pace = pace;
      this.tell("state");
    }

    /** Where a finished run is to be seen again by itself: it took less time than eyes need. */
    #playSlowly() {
      const { finished, arms, duration } = this.run;
      const whole = finished?.reason === "stop" || finished?.reason === "length";
      const both = ARMS.every((arm) => arms[arm].rounds.length > 1);
      if (this.slowMotion && whole && both && duration < FIT_SECONDS) this.play();
    }

    /** Play from the moment shown, or from the start. A few steps a second suffice, and leave the processor to others. */
    play() {
      if (this.live || !this.run.lines.length) return;
      if (this.time === Infinity) this.time = 0;
      this.#stage = null;
      this.playing = true;
      let last = performance.now();
      const tick = () => {
        const now = performance.now();
        this.seek(this.time + ((now - last) / 1000) * this.speed);
        last = now;
        if (this.time === Infinity) this.pause();
        else if (this.playing) this.#timer = setTimeout(tick, TICK_MS);
      };
      this.#timer = setTimeout(tick, TICK_MS);
      this.tell("state");
    }

    pause() {
      clearTimeout(this.#timer);
      if (!this.playing) return;
      this.playing = false;
      this.tell("state");
    }

    isolate(kind) {
      this.isolated = this.isolated === kind ? null : kind;
      this.tell("isolate");
    }
  }

  Object.assign(Playground, { FIT, Store });
  if (typeof module !== "undefined") module.exports = Playground;
})();
