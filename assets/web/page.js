/* In the Gradio page: what its components and buttons call. There is one store, which all its tabs show. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const {
    Store,
    Tour,
    View,
    choose,
    conversation,
    define,
    dressPage,
    linkOf,
    present,
    printLight,
    wantsSlowMotion,
    watchTabs,
  } = Playground;

  const store = new Store();
  dressPage();
  printLight();
  store.slowMotion = wantsSlowMotion();

  /** What the address asks to be shown: a recorded run, at a moment of it. */
  const openAsked = async (view) => {
    const parameters = new URLSearchParams(location.search);
    const name = parameters.get("replay");
    if (!name) return;
    const at = Number(parameters.get("at") ?? NaN);
    if ((await view.toolbar.recording(name, Number.isFinite(at))) && Number.isFinite(at)) store.seek(at);
  };

  /** In the page: called by the component's js_on_load. */
  Playground.mount = (element, settings, props, watch, server) => {
    define(settings.definitions);
    Playground.server = server;
    const view = new View(store, { ...settings, server, linkOf, choose: settings.alone ? null : choose });
    if (!settings.alone) view.toolbar.element.prepend(Playground.goOn());
    element.replaceChildren(view.element);
    watch("value", () => store.receive(props.value, server.missed));
    const step = Tour.asked();
    if (step >= 0) {
      const begin = () => {
        if (store.live || !store.run.finished) return;
        store.removeEventListener("state", begin);
        view.guide(step);
      };
      store.on("state", begin);
      if (!/[?&](run|replay)=/.test(location.search)) view.showFirst();
    }
    if (settings.preloaded && !store.run.lines.length) view.open(server.preloaded());
    else openAsked(view);
    Playground.view = view;
    armStop();
    showMore(false);
    Playground.sayKeys();
  };

  /** Run was pressed: the knobs, with the conversation and the run's id as the last of them. */
  Playground.begin = (knobs) => {
    if (!store.live) { // pressed twice, it is on already
      const bytes = crypto.getRandomValues(new Uint8Array(12));
      store.begin(Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""));
    }
    return [...knobs.slice(0, -2), JSON.stringify(conversation.turns), store.run.id];
  };

  /** The run's event is over, by whatever way. */
  Playground.settle = async () => {
    while (store.asked) await store.asked;
    if (store.live && !store.run.finished && !store.run.error) {
      store.run.error = "The connection to the playground's server was lost during the run; press Run again.";
    }
    store.settle();
  };

  /** Stop has something to stop while a run is live only. */
  const armStop = () => {
    const stop = document.querySelector("#stop");
    if (stop) stop.disabled = !store.live;
  };
  store.on("state", armStop);

  /** The knobs that a first run does not need. */
  const showMore = (open) => {
    document.body.classList.toggle("pg-more", open);
    const button = document.querySelector("#more-button");
    button?.setAttribute("aria-expanded", String(open));
    button?.setAttribute("aria-controls", "more");
  };
  Playground.toggleMore = () => showMore(!document.body.classList.contains("pg-more"));

  Object.assign(Playground, { store });
  watchTabs();
  present(store);
  Playground.started?.(); // frames are throttled from here on, see frame_throttle.js
})();
