/* In the Gradio page: what its components and buttons call. There is one store, which all its tabs show. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Store, View, define } = Playground;

  const HINT = "Press Run: the same target answers twice, alone and with a draft.";
  const HINT_WITHOUT_MODEL = "Open a recorded run or a trace file: it replays at its true pace.";

  const store = new Store();

  /** In the page: called by the component's js_on_load. */
  Playground.mount = (element, settings, props, watch, server) => {
    define(settings.definitions);
    const view = new View(store, { ...settings, server, hint: settings.alone ? HINT_WITHOUT_MODEL : HINT });
    element.replaceChildren(view.element);
    watch("value", () => store.receive(props.value, server.missed));
    if (settings.preloaded && !store.run.lines.length) view.open(server.preloaded());
    Playground.view = view;
  };

  /** Run was pressed: the knobs, with the run's id as the last of them. */
  Playground.begin = (knobs) => {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    store.begin(id);
    return [...knobs.slice(0, -1), id];
  };

  /** The run's event is over, by whatever way. */
  Playground.settle = async () => {
    while (store.asked) await store.asked;
    if (store.live && !store.run.finished && !store.run.error) store.run.error = "The connection to the playground's server was lost during the run; press Run again.";
    store.settle();
  };

  Object.assign(Playground, { store });
  Playground.started?.(); // frames are throttled from here on, see frame_throttle.js
})();
