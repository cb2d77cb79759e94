/* The prompt's length in tokens, beside its label: asked of the server when the writing pauses, and never during a run. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { format, h } = Playground;

  const PAUSE_MS = 400;
  const AGAIN_MS = 3000; // where an engine was at work; from then on ever more seldom

  let count = null;
  let timer = 0;
  let asked = "";
  const said = h("output", { class: "pg prompt-count" });

  const say = (text, kind = "") => {
    said.textContent = said.title = text;
    said.dataset.kind = kind;
    const prompt = document.querySelector("#prompt");
    if (prompt && said.parentElement !== prompt) prompt.append(said);
  };

  /** The values with the turns before the prompt, which are read with it. */
  const asking = (values) => [...values, JSON.stringify(Playground.conversation.turns)];

  /** Ask once the values have stayed as they are for a while. again: how long after to ask again, where there is no answer. */
  const soon = (values, ms = PAUSE_MS, again = AGAIN_MS) => {
    clearTimeout(timer);
    timer = setTimeout(() => ask(values, again), ms);
  };

  const ask = async (values, again) => {
    if (Playground.store.live || document.hidden) return soon(values, AGAIN_MS);
    if (!String(values[0]).trim()) return say("");
    const whole = asking(values);
    asked = JSON.stringify(whole);
    const answer = await count(whole).catch(() => ({})); // a server that is gone says so where a run is asked for
    if (asked !== JSON.stringify(whole)) return;
    if (answer.error) say(answer.error, "error");
    else if (answer.tokens === null) soon(values, again, 2 * again);
    else if (answer.tokens) say(format.plural(answer.tokens, "token"));
  };

  /** Called by the component's js_on_load. */
  Playground.mountPromptCount = (count_) => {
    count = count_;
    if (Playground.knobValues) soon(Playground.knobValues(), 0);
  };

  /** The knobs have changed. */
  Playground.countSoon = (values) => {
    if (!count || JSON.stringify(asking(values)) === asked) return;
    say("");
    soon(values);
  };
})();
