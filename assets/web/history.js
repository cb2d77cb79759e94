/* The last runs of this browser: kept over a refresh, newest first. Storage is handed in. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const KEY = "speculative-sampling-playground-history";
  const MOST = 30;

  /** The entries in what was kept; another program on this address may have written anything. */
  const kept = (text) => {
    try {
      return JSON.parse(text).filter((each) => each?.id && each.card);
    } catch {
      return [];
    }
  };

  class RunHistory {
    /** storage: localStorage, or anything like it. */
    constructor(storage) {
      this.storage = storage;
      this.entries = kept(storage.getItem(KEY) ?? "[]");
    }

    /** Keep a run's card, and its settings as the knobs hold them; what does not fit any more goes, oldest first. */
    add(id, card, settings = null) {
      this.entries = [{ id, card, settings }, ...this.entries.filter((each) => each.id !== id)].slice(0, MOST);
      this.#save();
    }

    clear() {
      this.entries = [];
      this.#save();
    }

    #save() {
      while (true) {
        try {
          return this.storage.setItem(KEY, JSON.stringify(this.entries));
        } catch {
          if (!this.entries.length) return;
          this.entries.pop();
        }
      }
    }

    get json() {
      return `${JSON.stringify(this.entries.map(({ card }) => card), null, 1)}\n`;
    }
  }

  Object.assign(Playground, { RunHistory });
  if (typeof module !== "undefined") module.exports = Playground;
})();
