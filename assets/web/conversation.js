/* The turns before what is asked now, in this tab, and what a run gives to go on from. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { NAMES, asText, parted } = Playground;

  const KEY = "speculative-sampling-playground-conversation";

  class Conversation extends EventTarget {
    turns = [];
    /** How full the context is, in words; empty where it is not known. */
    room = "";
    /** What stood before the last change of a turn: {turns, room, prompt}. */
    before = null;

    /** storage: sessionStorage or anything like it, for a conversation too long for an address; null: none. */
    constructor(storage) {
      super();
      this.storage = storage;
    }

    /** The conversation that was kept, as it is written into an address. */
    get kept() {
      return this.storage?.getItem(KEY) ?? "[]";
    }

    set(turns, room = "", before = null) {
      Object.assign(this, { turns, room, before });
      try {
        this.storage?.setItem(KEY, asText(turns));
      } catch {
        // then it lasts as long as the page
      }
      this.dispatchEvent(new Event("change"));
    }

    /** Branch at a turn of the user: it is to be asked anew, so it leaves with all that follows. Returns its text.
     * prompt: what was about to be asked. */
    branch(place, prompt) {
      const { content } = this.turns[place];
      this.set(this.turns.slice(0, place), "", { turns: this.turns, room: this.room, prompt });
      return content;
    }

    /** Put other words into an answer; what followed it leaves, but for the question after it. Returns what is to be asked. */
    reword(place, content, prompt) {
      const asked = this.turns[place + 1]?.content ?? prompt;
      const turns = [...this.turns.slice(0, place), { role: "assistant", content }];
      this.set(turns, "", { turns: this.turns, room: this.room, prompt });
      return asked;
    }

    /** Take the last change back. Returns what was to be asked then. */
    undo() {
      const { turns, room, prompt } = this.before;
      this.set(turns, room);
      return prompt;
    }
  }

  /** The answers of a finished run that a conversation can go on from: one where both arms wrote the same. */
  const answersOf = (run) => {
    if (!run.finished || run.error || run.finished.reason === "error") return [];
    const answers = run.running.map((arm) => ({ arm, text: run.answer(arm) })).filter(({ text }) => text.trim());
    const [first, second] = answers;
    if (!second || first.text === second.text) return answers.slice(0, 1).map((each) => ({ ...each, name: "" }));
    return answers.map((each) => ({ ...each, name: NAMES[each.arm] }));
  };

  /** The turns after a run, with this answer of it. */
  const turnsAfter = (run, text) => {
    const { prompt, messages } = parted(run.started.request);
    return [...messages, { role: "user", content: prompt }, { role: "assistant", content: text }];
  };

  Object.assign(Playground, { Conversation, answersOf, turnsAfter });
  if (typeof module !== "undefined") module.exports = Playground;
})();
