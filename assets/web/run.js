/* The browser's copy of a trace. It draws nothing and works out no figure: items come from app/ui/render.py, each with
   the line of the trace file it stands for. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const ARMS = ["target", "speculative"];
  const NAMES = { target: "Target only", speculative: "Speculative" };
  /** What each kind of token is called; how it looks is the style sheet's business (colour and form). */
  const KINDS = ["accepted", "corrected", "bonus", "target", "rejected", "discarded"];

  /** One run: its lines as they stand in the trace file, and its tokens and rounds by arm. */
  class Run {
    constructor(id = "") {
      this.id = id;
      this.lines = [];
      this.items = [];
      this.labels = new Map();
      this.special = new Set();
      this.started =
        this.finished =
        this.verdict =
        this.analysis =
          null;
      this.waiting = this.waitSeconds = 0;
      this.error = "";
      this.agreed = 0;
      this.diverged = null;
      this.arms = {
        target: { name: "target", rounds: [], tokens: [] },
        speculative: { name: "speculative", rounds: [], tokens: [] },
      };
    }

    add(item) {
      this.waiting = item.waiting ?? 0;
      this.waitSeconds = item.seconds ?? 0;
      if (item.error) this.error = item.error;
      if (!item.line) return;
      this.lines.push(item.line);
      this.items.push(item);
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
      const round = {
        ...event,
        line: this.lines.length,
        clock: item.clock,
        since: before ? before.clock : 0,
        figures: item.figures,
        draftTexts: item.drafts,
        tokens: [],
        refused: [],
      };
      const token = (fields) => {
        const made = {
          arm: event.arm,
          round,
          index: arm.tokens.length,
          clock: item.clock,
          special: this.special.has(fields.id),
          text: item.texts[round.tokens.length],
          ...fields,
        };
        round.tokens.push(made);
        arm.tokens.push(made);
      };
      event.drafted.forEach((drafted, place) => {
        if (drafted.state === "accepted") token({ id: drafted.id, kind: "accepted", place, drafted });
        else {
          round.refused.push({
            arm: event.arm,
            round,
            id: drafted.id,
            kind: drafted.state,
            place,
            drafted,
            clock: item.clock,
            special: this.special.has(drafted.id),
            text: item.drafts[place],
            index: null,
          });
        }
      });
      if (event.final) {
        token({ id: event.final.id, kind: event.final.provenance, place: round.tokens.length, final: event.final });
      }
      arm.rounds.push(round);
      this.agreed = item.agreed;
      this.diverged = item.diverged;
    }

    /** What an arm wrote, control tokens left out. */
    answer(arm) {
      return this.arms[arm].tokens.map((token) => (token.special ? "" : token.text)).join("");
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
      return [...new Set(ARMS.flatMap((arm) => this.arms[arm].rounds.map((round) => round.clock)))].sort((a, b) =>
        a - b
      );
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

  /** What a run's speculative text may be held to: its kind, in a word, in a sentence. */
  const promiseOf = (started) => {
    if (started.engine === "upstream") {
      return {
        kind: "lossy",
        name: "a reference",
        title: "Upstream's own loop ran it: it promises nothing of the text.",
      };
    }
    if (started.lossless) {
      return { kind: "lossless", name: "lossless", title: "This text is distributed exactly as the target's own." };
    }
    return {
      kind: "lossy",
      name: "lossy",
      title: "This rule keeps drafts the target would not have chosen: the text is not the target's.",
    };
  };

  Object.assign(Playground, { ARMS, KINDS, NAMES, Run, promiseOf, roundAt });
  if (typeof module !== "undefined") module.exports = Playground;
})();
