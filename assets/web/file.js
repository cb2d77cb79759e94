/* In an exported page: the trace stands in the document. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Store, View, define, dressPage, wantsSlowMotion } = Playground;

  /** In an exported page: the trace stands in the document. */
  Playground.openFile = (text) => {
    define(text);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const dress = () => dressPage() ?? document.body.classList.toggle("dark", dark.matches);
    dark.addEventListener("change", dress);
    dress();
    const store = new Store();
    store.slowMotion = wantsSlowMotion();
    const view = new View(store, { server: null });
    Object.assign(Playground, { store, view });
    document.getElementById("pg-playground").replaceChildren(view.element);
    Playground.mountRounds(document.getElementById("pg-rounds"), store, true);
    store.show(JSON.parse(document.getElementById("pg-trace").textContent));
  };

})();
