/* For a room: sentence, speedup, race and panes in large type, no knobs. P switches it; digits run the examples. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h } = Playground;

  const typing = (target) =>
    target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]");
  /** What has these keys for itself: a button its Space, a token or a slider its arrows. */
  const OWN = {
    " ": "button, summary, a, [role=option], [role=listbox], [type=checkbox]",
    Enter: "button, summary, a, [role=option], [role=listbox]",
    ArrowLeft: "[role=option], [role=listbox], [type=range]",
    ArrowRight: "[role=option], [role=listbox], [type=range]",
  };
  const OPEN = ".pg-card:not([hidden]), .tour:not([hidden])"; // what Escape closes first
  const wanted = () => ["1", "true"].includes(new URLSearchParams(location.search).get("present"));

  const show = (on) => {
    document.body.classList.toggle("pg-present", on);
    const query = new URLSearchParams(location.search);
    if (on) query.set("present", "1");
    else query.delete("present");
    history.replaceState(history.state, "", query.size ? `?${query}` : location.pathname);
  };

  Playground.present = (store) => {
    const hint = h("aside", { class: "pg present-hint", "aria-label": "Keys" });
    document.body.append(hint);
    const present = (on) => {
      const cards = document.querySelectorAll("[data-card]").length;
      const keys = [
        cards > 0 && `1 to ${cards}: examples`,
        document.querySelector("#run") && "Enter: run",
        "space: replay",
        "← →: step",
        "P: leave",
      ];
      hint.textContent = keys.filter(Boolean).join(" · ");
      show(on);
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      if (OWN[event.key] && event.target.closest?.(OWN[event.key])) return;
      const on = document.body.classList.contains("pg-present");
      const act = {
        p: () => present(!on),
        Escape: on && !document.querySelector(OPEN) && (() => present(false)),
        Enter: on && (() => document.querySelector("#run")?.click()),
        " ": on && (() => (store.playing ? store.pause() : store.play())),
        ArrowRight: on && (() => store.step(1)),
        ArrowLeft: on && (() => store.step(-1)),
      }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      const card = on && /^[1-9]$/.test(event.key) && document.querySelector(`[data-card="${event.key}"]`);
      if (!act && !card) return;
      event.preventDefault();
      if (act) act();
      else card.click();
    });
    present(wanted());
    /** The page has got what the keys are for. */
    Playground.sayKeys = () => present(document.body.classList.contains("pg-present"));
  };
})();
