/* The run that is shown, and the clock it is shown by. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Run } = Playground;

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

  Object.assign(Playground, { Store });
  if (typeof module !== "undefined") module.exports = Playground;
})();
