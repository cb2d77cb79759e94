/* In an exported page: the trace stands in the document. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Store, View, define } = Playground;

  /** In an exported page: the trace stands in the document. */
  Playground.openFile = (text) => {
    define(text);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const dress = () => document.body.classList.toggle("dark", dark.matches);
    dark.addEventListener("change", dress);
    dress();
    const store = new Store();
    const view = new View(store, { server: null });
    Object.assign(Playground, { store, view });
    document.getElementById("pg-playground").replaceChildren(view.element);
    Playground.mountRounds(document.getElementById("pg-rounds"), store, true);
    store.show(JSON.parse(document.getElementById("pg-trace").textContent));
  };

})();
